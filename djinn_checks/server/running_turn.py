"""One turn as the event loop hears it: its tokens one by one, then its end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import Self

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.turn import Token, TurnEnd, TurnRequest
from djinn_checks.errors import SessionClosedError


class RunningTurn:
    """A turn that is computed while the block runs that it is the context of; leaving the block cancels it."""

    def __init__(self, engine: AgentEngine, session_id: str | None, request: TurnRequest) -> None:
        """Begin. Without a session id the session ends with the turn."""
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._events = asyncio.Queue[Token | TurnEnd | Exception]()
        self._end: TurnEnd | None = None
        self._is_cancelled = False
        name = session_id or f"anonymous-{uuid.uuid4()}"
        self._turn = engine.submit(name, request, self._hear, anonymous=session_id is None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._end is None:
            self._cancel()

    async def next(self) -> Token | None:
        """Wait for the next token, and return None when there are no more.

        Raises:
            SessionClosedError: another request closed the session.
            DjinnChecksError: the engine refused the turn or could not finish it.
        """
        event = self._end or await self._events.get()
        if isinstance(event, Token):
            return event
        if isinstance(event, Exception):
            raise event
        if event.reason == "cancelled" and not self._is_cancelled:
            raise SessionClosedError(
                "the session was closed by another request before this one had ended; what it had generated is cut, "
                "and the session's KV is gone: ask again with the whole prompt"
            )
        self._end = event
        return None

    async def finish(self) -> TurnEnd:
        """Cancel what has not been computed yet, and return the account of the turn. Raises as `next`."""
        if self._end is None:
            self._cancel()
        while self._end is None:
            await self.next()
        return self._end

    def _cancel(self) -> None:
        self._is_cancelled = True
        self._engine.cancel(self._turn)

    def _hear(self, event: Token | TurnEnd | Exception) -> None:
        """Hear of an event, in the engine's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is gone, and nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
