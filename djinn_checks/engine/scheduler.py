"""Who sleeps, who makes room, who computes next. Decides only; `agent_engine.py` does.

Time comes from an injected clock. Nothing here waits: `seconds_to_deadline` says how long the caller may.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from djinn_checks.engine.session import Session, State
from djinn_checks.errors import BusyError, UnknownSessionError

Clock = Callable[[], float]
CanPark = Callable[[int], bool]
"""Tells whether the KV of so many tokens would find a place off the device now."""


class Scheduler:
    """The sessions, in the order in which they wait and compute.

    Attributes:
        sessions: the open ones, by id.
        waiting: sessions with a turn that does not compute yet, in the order of arrival.
        running: sessions whose turn computes, in the order of their next step.
    """

    def __init__(self, *, idle_s: float, ttl_s: float, max_sessions: int, clock: Clock, can_park: CanPark) -> None:
        """Set the rules.

        Args:
            idle_s: seconds without a turn after which a session leaves the device.
            ttl_s: seconds without a turn after which a session is closed.
        """
        self.sessions: dict[str, Session] = {}
        self.waiting: deque[Session] = deque()
        self.running: deque[Session] = deque()
        self.idle_s = idle_s
        self._ttl_s = ttl_s
        self._max_sessions = max_sessions
        self._clock = clock
        self._can_park = can_park

    def open(self, session_id: str, *, anonymous: bool = False) -> Session:
        """Return the session of that name, new if there is none.

        Raises:
            BusyError: there are as many as there may be.
        """
        session = self.sessions.get(session_id)
        if session is None:
            if len(self.sessions) >= self._max_sessions:
                raise BusyError(f"{len(self.sessions)} sessions are open, as many as allowed; close one and try again")
            now = self._clock()
            session = Session(id=session_id, idle_since_s=now, last_used_s=now, anonymous=anonymous)
            self.sessions[session_id] = session
        return session

    def find(self, session_id: str) -> Session:
        """Return the open session of that name.

        Raises:
            UnknownSessionError: there is none.
        """
        if session_id not in self.sessions:
            raise UnknownSessionError(f"session {session_id!r} is not open; a request opens it")
        return self.sessions[session_id]

    def next_running(self) -> Session | None:
        """Return the session whose step comes next.

        Turns without a token come first, in the order in which they began. The others take a step each, in a circle.
        """
        if not self.running:
            return None
        fresh = next(
            (session for session in self.running if session.turn is not None and not session.turn.produced), None
        )
        if fresh is not None:
            return fresh
        self.running.rotate(-1)
        return self.running[-1]

    def to_sleep(self) -> list[Session]:
        """Return the sessions that should leave the device now and can."""
        now = self._clock()
        return [session for session in self._sleepers() if session.io_wait or now - session.idle_since_s >= self.idle_s]

    def to_close(self) -> list[Session]:
        """Return the sessions that nobody has used for too long."""
        now = self._clock()
        return [session for session in self._unused() if now - session.last_used_s >= self._ttl_s]

    def seconds_to_deadline(self) -> float | None:
        """Return the seconds after which `to_sleep` or `to_close` will say more; None: not without an event."""
        now = self._clock()
        times = [session.idle_since_s + (0 if session.io_wait else self.idle_s) - now for session in self._sleepers()]
        times += [session.stays_until_s - now for session in self.sessions.values() if session.stays_until_s > now]
        times += [session.last_used_s + self._ttl_s - now for session in self._unused()]
        return max(0.0, min(times)) if times else None

    def victims(self, nbytes: int) -> list[Session]:
        """Return idle sessions that free `nbytes` of the device if they leave, or all of them if that is not enough.

        Sessions that wait for something outside come first, then those that have been idle longest. A session that
        computes, or is about to, is never among them.
        """
        order = sorted(self._sleepers(), key=lambda session: (not session.io_wait, session.idle_since_s))
        chosen: list[Session] = []
        for session in order:
            if sum(_block_bytes(chosen)) >= nbytes:
                break
            chosen.append(session)
        return chosen

    def is_anything_coming(self) -> bool:
        """Tell whether room may come free by itself: someone computes, is about to, or moves."""
        return any(
            session.state not in (State.IDLE, State.SWAPPED)
            or (session.turn is not None and session.fits(session.turn))
            for session in self.sessions.values()
        )

    def too_small(self, session: Session) -> Session | None:
        """Return a session on the device that waits for a larger block, `session` itself before any other."""
        found = [
            other
            for other in self.waiting
            if other.state is State.IDLE
            and other.block is not None
            and other.turn is not None
            and not other.fits(other.turn)
        ]
        return session if session in found else next(iter(found), None)

    def _sleepers(self) -> list[Session]:
        now = self._clock()
        return [
            session
            for session in self.sessions.values()
            if session.state is State.IDLE and session.turn is None and session.ids and session.stays_until_s <= now
            and self._can_park(len(session.ids))
        ]  # fmt: skip

    def _unused(self) -> list[Session]:
        return [
            session
            for session in self.sessions.values()
            if session.turn is None and session.state in (State.IDLE, State.SWAPPED)
        ]


def _block_bytes(sessions: Iterable[Session]) -> list[int]:
    return [session.block.memory.numel() for session in sessions if session.block is not None]
