"""A session, and the states that it may go through.

    IDLE ──────────► ACTIVE         a turn computes; its KV is on the device
     ▲ │ ◄───────────┘
     │ └───────────► SWAPPING_OUT ► SWAPPED ► SWAPPING_IN ─► IDLE
     └─ a request came in the middle, or the move failed: the block is still whole
                       SWAPPED ◄ SWAPPING_IN      the move failed, and its bytes off the device are whole
    any of them ──► CLOSED

A session that is moving has its KV in two places, and is closed when the move has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_store import Parked
from djinn_checks.engine.turn import Turn
from djinn_checks.errors import TransitionError


class State(StrEnum):
    """Where a session's KV is, and whether it is computing."""

    IDLE = "IDLE"
    ACTIVE = "ACTIVE"
    SWAPPING_OUT = "SWAPPING_OUT"
    SWAPPED = "SWAPPED"
    SWAPPING_IN = "SWAPPING_IN"
    CLOSED = "CLOSED"


_NEXT: dict[State, tuple[State, ...]] = {
    State.IDLE: (State.ACTIVE, State.SWAPPING_OUT, State.CLOSED),
    State.ACTIVE: (State.IDLE, State.CLOSED),
    State.SWAPPING_OUT: (State.SWAPPED, State.IDLE, State.CLOSED),
    State.SWAPPED: (State.SWAPPING_IN, State.CLOSED),
    State.SWAPPING_IN: (State.IDLE, State.SWAPPED, State.CLOSED),
    State.CLOSED: (),
}

MOVING = (State.SWAPPING_OUT, State.SWAPPING_IN)


@dataclass(kw_only=True)
class Session:
    """One agent's conversation. Belongs to the engine's thread."""

    id: str
    idle_since_s: float
    """When its time on the device without a turn began; put off by a wish to compute, or a move that failed."""
    last_used_s: float = 0.0
    """When its agent was last heard of, for the time after which it is closed."""
    anonymous: bool = False
    """Nobody can name it again: closed with its turn."""
    state: State = State.IDLE
    ids: list[int] = field(default_factory=list)
    """The token ids whose KV it has."""
    block: KvBlock | None = None
    cache: SessionCache | None = None
    parked: Parked | None = None
    turn: Turn | None = None
    """The turn that waits or computes."""
    io_wait: bool = False
    """The agent said that it waits for something outside: leave at once."""
    wanted: bool = False
    """The agent said that it will compute: come back, or stay, before the request."""
    stays_until_s: float = 0.0
    """It could not leave; not before this time is it tried again."""
    next_tokens: int = 0
    """Tokens that its next turn may well add, by the one before."""
    closing: bool = False
    swaps: int = 0
    restores: int = 0
    kept: int = 0
    """Swaps that a request overtook: the KV was still on the device and stayed."""
    swapped_bytes: int = 0
    """Bytes that were copied off the device, in all swaps together."""
    restored_bytes: int = 0
    swap_s: float | None = None
    """Seconds that the last swap-out took, its digest included."""
    restore_s: float | None = None
    """Seconds that the last restore took, its digest included, memory for it not."""
    allocate_s: float | None = None
    """Seconds that it took to get memory for the last restore, from the driver if none was kept."""
    digest_s: float | None = None
    """Seconds that the last move waited for its digest after its copies were done."""
    digest_out: str | None = None
    digest_in: str | None = None

    def go(self, state: State) -> None:
        """Enter a state.

        Raises:
            TransitionError: it does not follow the present one.
        """
        if state not in _NEXT[self.state]:
            allowed = ", ".join(_NEXT[self.state]) or "none"
            raise TransitionError(f"session {self.id!r}: {self.state} to {state}; expected one of: {allowed}")
        self.state = state

    def fits(self, turn: Turn) -> bool:
        """Tell whether its KV is on the device with room for a turn."""
        return self.block is not None and self.block.capacity >= turn.capacity
