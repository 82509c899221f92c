"""What the engine tells whoever keeps its metrics. Does nothing by itself; called in the engine's thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from djinn_checks.engine.kv_mover import Moved
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.engine.session import Session
from djinn_checks.engine.turn import TurnEnd

if TYPE_CHECKING:
    from djinn_checks.engine.scheduler import Scheduler


class Observer:
    """Override what is to be heard."""

    def swapped(self, session: Session, moved: Moved) -> None:
        """A session's KV left the device."""

    def restored(self, session: Session, moved: Moved, allocate_s: float) -> None:
        """A session's KV came back; a block for it had taken `allocate_s` seconds."""

    def lost(self, session: Session) -> None:
        """A session's KV did not come back as it was."""

    def turn_ended(self, end: TurnEnd) -> None:
        """A turn ended, or was cancelled."""

    def look(self, scheduler: Scheduler, store: KvStore) -> None:
        """The state after each step, for gauges."""
