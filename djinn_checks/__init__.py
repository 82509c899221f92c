"""djinn-checks: decide whether streamed weights, a full PCIe link and a sleeping KV cache are what they claim to be."""
