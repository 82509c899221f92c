"""What a machine that has something else to do leaves open: nobody is accused by it, and nobody passed."""

from __future__ import annotations

_WHY = {
    "woke_at_once": ("the noise floor itself is ", "is it busy?"),
    "kv_left_soon": ("is it busy?", "the memory was not read"),
    "kv_left_device": ("the memory was not read",),
    "closing_frees": ("the memory was not read",),
}
"""By row what its reason says then."""


def is_left_open_by_a_busy_machine(name: str, reason: str) -> bool:
    """Tell whether a row about promptness or memory is open for no fault of the server."""
    return any(said in reason for said in _WHY.get(name, ()))
