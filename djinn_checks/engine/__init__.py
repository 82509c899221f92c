"""The reference engine: weights streamed through a ring buffer. It never imports an instrument."""
