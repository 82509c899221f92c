"""The engine as an event loop sees it: turns as streams of tokens, sessions as records."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.session import Session
from djinn_checks.engine.turn import Token, TurnEnd, TurnRequest
from djinn_checks.server.schema import SessionView

_T = TypeVar("_T")


class Sessions:
    """Asks the engine, and waits without holding up the event loop."""

    def __init__(self, engine: AgentEngine) -> None:
        self._engine = engine

    async def turn(self, session_id: str | None, request: TurnRequest) -> AsyncGenerator[Token | TurnEnd]:
        """Run a turn and give its tokens as they come, and its end.

        A caller that stops listening cancels the turn. Without a session id the session ends with the turn.

        Raises:
            DjinnChecksError: the engine refused the turn or could not finish it.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Token | TurnEnd | Exception]()

        def listen(event: Token | TurnEnd | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody listens
                loop.call_soon_threadsafe(events.put_nowait, event)

        name = session_id or f"anonymous-{uuid.uuid4()}"
        turn = self._engine.submit(name, request, listen, anonymous=session_id is None)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, TurnEnd):
                    return
        finally:
            self._engine.cancel(turn)

    async def list(self) -> list[SessionView]:
        """Return all open sessions."""
        return await self._ask(lambda: [self._view(one) for one in self._engine.scheduler.sessions.values()])

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
