"""Gives sessions their place on the device, moves them off it and back, and makes room.

Called in the engine's thread alone. The moves themselves go on beside it; two threads wait for their ends (a
thread for each direction) and have the engine's thread hear of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from djinn_checks.engine.device_memory import block_bytes
from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_mover import Move, Moved
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.engine.observer import Observer
from djinn_checks.engine.scheduler import Clock, Scheduler
from djinn_checks.engine.session import MOVING, Session, State
from djinn_checks.errors import KvCapacityError, KvDigestError, KvError

_log = logging.getLogger(__name__)

_REST_S = 5.0
"""A session that could not leave is not asked again for so long."""

Fail = Callable[[Session, Exception], None]
"""Ends a session's turn, if it has one, with what went wrong."""


class SessionMoves:
    """Where each session's KV is. Between its moves a session has a block, or is parked, or is new."""

    def __init__(
        self,
        store: KvStore,
        scheduler: Scheduler,
        *,
        fail: Fail,
        post: Callable[[Callable[[], None]], None],
        observer: Observer,
        clock: Clock,
        compact: bool,
    ) -> None:
        """Move the sessions of `scheduler`.

        Args:
            post: has something run in the engine's thread.
            compact: see `SessionCache`.
        """
        self._store, self._scheduler, self._device = store, scheduler, store.memory.device
        self._fail, self._post, self._observer, self._clock, self._compact = fail, post, observer, clock, compact
        self._out, self._back = (ThreadPoolExecutor(1, name, self._enter) for name in ("kv-out", "kv-in"))
        self._why_not_left = ""

    def finish(self) -> None:
        """Wait for the moves under way."""
        for waiting in (self._out, self._back):
            waiting.shutdown(wait=True)

    def make_place(self, session: Session, tokens: int) -> bool:
        """Take a block for a session, or have others leave. Return False if it has to wait for room.

        A turn that can never have its room, or whose session cannot be settled in it, is ended with the error.
        """
        started = self._clock()
        try:
            block = self._store.allocate(tokens)
        except KvCapacityError as error:
            return self._make_room(session, tokens, error)
        if session.state is State.SWAPPED:
            self._come_back(session, block, self._clock() - started)
            return True
        try:
            self._settle_in(session, block)
        except Exception as error:  # of whatever kind: it is this session's, and the others go on
            self._store.release(block)
            self._fail(session, error)
        return True

    def leave(self, session: Session) -> bool:
        """Start to move a session off the device. Return False if there is no place for it."""
        block = session.block
        if block is None:
            return False
        try:
            parked = self._store.park(session.id, len(session.ids))
        except KvCapacityError as error:
            self._stays(session, error)
            return False
        session.parked = parked
        session.go(State.SWAPPING_OUT)
        self._move(self._out, lambda: self._store.move_out(block, parked), lambda done: self._left(session, done))
        return True

    def release(self, session: Session) -> None:
        """Take away a session's block, which nothing computes or copies with."""
        if session.block is not None:
            self._store.release(session.block)
        session.block = session.cache = None

    def forget(self, session: Session) -> None:
        """Close a session that nothing moves any more."""
        if session.state is State.CLOSED:
            return
        session.go(State.CLOSED)
        self.release(session)
        self._discard(session)
        self._scheduler.sessions.pop(session.id, None)

    def trim(self) -> None:
        """Hand free device memory back to the driver when nothing computes, waits or moves.

        The driver waits for everything that runs on the device, and takes a millisecond to give memory again.
        """
        quiet = not self._scheduler.running and not self._scheduler.waiting
        if quiet and not any(session.state in MOVING for session in self._scheduler.sessions.values()):
            self._store.memory.trim()

    def _stays(self, session: Session, error: BaseException) -> None:
        """Note that a session could not leave, so that nobody waits for it or asks it again at once."""
        _log.warning("a session stays on the device: %s", error)
        session.stays_until_s = self._clock() + _REST_S
        self._why_not_left = f"{type(error).__name__}: {error}"

    def _make_room(self, session: Session, tokens: int, error: KvCapacityError) -> bool:
        """Have others leave. Return whether nothing has to be waited for: there will never be room."""
        memory = self._store.memory
        leaving = sum(
            other.block.memory.numel()
            for other in self._scheduler.sessions.values()
            if other.block is not None and other.state is State.SWAPPING_OUT
            and not other.wanted and (other.turn is None or not other.fits(other.turn))
        )  # fmt: skip
        short = block_bytes(self._store.shape.device_bytes(tokens)) - memory.free_bytes - leaving
        if short > 0:
            for victim in self._scheduler.victims(short):
                self.leave(victim)
        if self._scheduler.is_anything_coming() or session.turn is None:
            return False
        in_the_way = self._scheduler.too_small(session)
        if in_the_way is not None and self.leave(in_the_way):
            return False  # a smaller block was in the way: its session comes back to a larger one
        why = f"; a session that should have left could not: {self._why_not_left}" if self._why_not_left else ""
        self._fail(session, KvCapacityError(f"{error}{why}"))
        return True

    def _settle_in(self, session: Session, block: KvBlock) -> None:
        """Give a session a new block on the device: its first, or a larger one."""
        cache, old = self._lay_cache(session, block), session.block
        if old is not None:
            tokens = len(session.ids)
            for new, kept in zip(block.used(tokens), old.used(tokens), strict=True):
                new.copy_(kept)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            cache.truncate(tokens)  # what a compact cache showed before the copy
            self.release(session)
        session.block, session.cache = block, cache

    def _lay_cache(self, session: Session, block: KvBlock) -> SessionCache:
        return SessionCache(block, length=len(session.ids), compact=self._compact)

    def _come_back(self, session: Session, block: KvBlock, allocate_s: float) -> None:
        parked = session.parked
        if parked is None:
            raise KvError(f"session {session.id!r} is {session.state} and has nothing to come back with")
        session.block = block
        session.go(State.SWAPPING_IN)
        self._move(
            self._back,
            lambda: self._store.move_in(parked, block),
            lambda done: self._is_back(session, done, allocate_s),
        )

    def _move(
        self, waiters: ThreadPoolExecutor, start: Callable[[], Move], then: Callable[[Future[Moved]], None]
    ) -> None:
        try:
            done = waiters.submit(_wait_once, [start()])
        except Exception as error:  # of whatever kind: it is this session's, and the others go on
            done = Future()
            done.set_exception(error)
        done.add_done_callback(lambda ended: self._post(lambda: then(ended)))

    def _left(self, session: Session, done: Future[Moved]) -> None:
        error = done.exception()
        turn = session.turn
        if error is not None:
            self._stays(session, error)
        if error is not None or session.closing or session.wanted or (turn is not None and session.fits(turn)):
            session.kept += 1
            session.wanted = False
            session.go(State.IDLE)
            self._discard(session)
            session.idle_since_s = self._clock()
        else:
            moved, self._why_not_left = done.result(), ""
            session.swaps, session.swap_s = session.swaps + 1, moved.total_s
            session.digest_out, session.swapped_bytes = moved.digest, session.swapped_bytes + moved.nbytes
            session.digest_s = moved.digest_s
            self.release(session)
            session.go(State.SWAPPED)
            self._observer.swapped(session, moved)
        if session.closing:
            self.forget(session)

    def _is_back(self, session: Session, done: Future[Moved], allocate_s: float) -> None:
        session.wanted, session.idle_since_s = False, self._clock()
        try:
            moved = done.result()
            session.cache = self._lay_cache(session, session.block) if session.block is not None else None
        except Exception as error:  # of whatever kind: it is this session's, and the others go on
            self._did_not_come_back(session, error)
            return
        session.restores, session.restore_s, session.allocate_s = session.restores + 1, moved.total_s, allocate_s
        session.digest_in, session.restored_bytes = moved.digest, session.restored_bytes + moved.nbytes
        session.digest_s = moved.digest_s
        self._observer.restored(session, moved, allocate_s)
        if session.turn is not None:
            session.turn.restore_s = allocate_s + moved.total_s
        self._discard(session)
        session.go(State.IDLE)
        if session.closing:
            self.forget(session)

    def _did_not_come_back(self, session: Session, error: Exception) -> None:
        """A session whose bytes changed is lost; any other failure leaves them where they are, for another try."""
        is_lost = isinstance(error, KvDigestError)
        _log.error("a session did not come back%s: %s", ", and is lost" if is_lost else "", type(error).__name__)
        if is_lost:
            self._observer.lost(session)
        self.release(session)
        session.go(State.SWAPPED)
        self._fail(session, error)
        if is_lost or session.closing:
            self.forget(session)

    def _discard(self, session: Session) -> None:
        if session.parked is not None:
            self._store.discard(session.parked)
        session.parked = None

    def _enter(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)


def _wait_once(moves: list[Move]) -> Moved:
    """Wait for the move in a list of one, and refer to it no more when its end is heard of.

    A thread pool lets go of what it ran a moment after it has told of its end. A block that the move still refers to
    would not be given back to the driver by then, and nothing would ask again while the session sleeps.
    """
    return moves.pop().wait()
