"""The engine as an event loop sees it: turns to be heard, sessions as records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.session import Session
from djinn_checks.engine.turn import TurnRequest
from djinn_checks.server.running_turn import RunningTurn
from djinn_checks.server.schema import SessionView

_T = TypeVar("_T")


class Sessions:
    """Asks the engine, and waits without holding up the event loop."""

    def __init__(self, engine: AgentEngine) -> None:
        self._engine = engine

    def turn(self, session_id: str | None, request: TurnRequest) -> RunningTurn:
        """Begin a turn. Without a session id the session ends with it."""
        return RunningTurn(self._engine, session_id, request)

    async def list(self) -> list[SessionView]:
        """Return all open sessions."""
        return await self._ask(lambda: [self._view(session) for session in self._engine.scheduler.sessions.values()])

    async def phase(self, session_id: str, phase: str) -> SessionView:
        """Tell the scheduler what an agent is about to do.

        Raises:
            UnknownSessionError: the session is not open.
        """
        tell = self._engine.wait_for_io if phase == "IO_WAIT" else self._engine.prefetch
        return await self._ask(lambda: self._view(tell(session_id)))

    async def close(self, session_id: str) -> SessionView:
        """Close a session and return its last state.

        Raises:
            UnknownSessionError: the session is not open.
        """
        return await self._ask(lambda: self._view(self._engine.close_session(session_id)))

    async def _ask(self, call: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._engine.post(call))

    def _view(self, session: Session) -> SessionView:
        return SessionView.of(session, self._engine.store.shape)
