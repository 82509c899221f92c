"""Gives sessions their place on the device, moves them off it and back, and makes room.

Called in the engine's thread alone. The moves themselves go on beside it; two threads wait for their ends, one
for each direction, and have the engine's thread hear of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from djinn_checks.engine.kv_cache import KvBlock, SessionCache
from djinn_checks.engine.kv_mover import Moved, Wait
from djinn_checks.engine.kv_store import KvStore, combined
from djinn_checks.engine.observer import Observer
from djinn_checks.engine.scheduler import Clock, Scheduler
from djinn_checks.engine.session import MOVING, Session, State
from djinn_checks.errors import KvCapacityError, KvDigestError, KvError

_log = logging.getLogger(__name__)

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

    def finish(self) -> None:
        """Wait for the moves under way."""
        for waiting in (self._out, self._back):
            waiting.shutdown(wait=True)

    def make_place(self, session: Session, tokens: int) -> bool:
        """Take a block for a session, or have others leave. Return False if it has to wait for room."""
        started = self._clock()
        try:
            block = self._store.allocate(tokens)
        except KvCapacityError as error:
            self._make_room(session, tokens, error)
            return False
        if session.state is State.SWAPPED:
            self._come_back(session, block, self._clock() - started)
        else:
            self._settle_in(session, block)
        return True

    def leave(self, session: Session) -> bool:
        """Start to move a session off the device. Return False if there is no place for it."""
        block = session.block
        if block is None:
            return False
        try:
            parked = self._store.park(session.id, len(session.ids))
        except KvCapacityError as error:
            _log.warning("a session stays on the device: %s", error)
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
        if quiet and not any(one.state in MOVING for one in self._scheduler.sessions.values()):
            self._store.memory.trim()

    def _make_room(self, session: Session, tokens: int, error: KvCapacityError) -> None:
        memory = self._store.memory
        leaving = sum(
            one.block.memory.numel()
            for one in self._scheduler.sessions.values()
            if one.block is not None and one.state is State.SWAPPING_OUT and one.turn is None
        )
        short = self._store.shape.device_bytes(tokens) - memory.free_bytes - leaving
        if short > 0:
            for victim in self._scheduler.victims(short):
                self.leave(victim)
        if self._scheduler.is_anything_coming() or session.turn is None:
            return
        if session.block is not None and self.leave(session):
            return  # its own, smaller block was in the way: it comes back to a larger one
        self._fail(session, error)

    def _settle_in(self, session: Session, block: KvBlock) -> None:
        """Give a session a new block on the device: its first, or a larger one."""
        if session.block is not None:
            tokens = len(session.ids)
            for new, old in zip(block.used(tokens), session.block.used(tokens), strict=True):
                new.copy_(old)
            if self._device.type == "cuda":
                torch.cuda.current_stream(self._device).synchronize()
            self.release(session)
        self._set_block(session, block)

    def _set_block(self, session: Session, block: KvBlock) -> None:
        session.block = block
        session.cache = SessionCache(block, length=len(session.ids), compact=self._compact)

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
        self, waiters: ThreadPoolExecutor, start: Callable[[], Wait], then: Callable[[Future[Moved]], None]
    ) -> None:
        try:
            done = waiters.submit(start())
        except Exception as error:  # of whatever kind: it is this session's, and the others go on
            done = Future()
            done.set_exception(error)
        done.add_done_callback(lambda ended: self._post(lambda: then(ended)))

    def _left(self, session: Session, done: Future[Moved]) -> None:
        error = done.exception()
        turn = session.turn
        if error is not None:
            _log.warning("session %r stays on the device: %s", session.id, error)
        if error is not None or session.closing or session.wanted or (turn is not None and session.fits(turn)):
            session.kept += 1
            session.io_wait = session.io_wait and error is None
            session.go(State.IDLE)
            self._discard(session)
            session.idle_since_s = self._clock()
        else:
            moved = done.result()
            session.swaps, session.swap_s = session.swaps + 1, moved.total_s
            session.digest_out, session.swapped_bytes = combined(moved.digests), session.swapped_bytes + moved.nbytes
            session.digest_s = moved.digest_s
            self.release(session)
            session.go(State.SWAPPED)
            self._observer.swapped(session, moved)
        if session.closing:
            self.forget(session)

    def _is_back(self, session: Session, done: Future[Moved], allocate_s: float) -> None:
        error = done.exception()
        session.wanted, session.idle_since_s = False, self._clock()
        if error is not None:
            _log.error("session %r is lost: %s", session.id, error)
            self._observer.lost(session, is_digest=isinstance(error, KvDigestError))
            failure = error if isinstance(error, Exception) else KvError(f"session {session.id!r} is lost: {error!r}")
            self._fail(session, failure)
            self.forget(session)
            return
        moved = done.result()
        session.restores, session.restore_s, session.allocate_s = session.restores + 1, moved.total_s, allocate_s
        session.digest_in, session.restored_bytes = combined(moved.digests), session.restored_bytes + moved.nbytes
        session.digest_s = moved.digest_s
        self._observer.restored(session, moved, allocate_s)
        if session.turn is not None:
            session.turn.restore_s = allocate_s + moved.total_s
        self._discard(session)
        session.go(State.IDLE)
        if session.block is not None:
            self._set_block(session, session.block)
        if session.closing:
            self.forget(session)

    def _discard(self, session: Session) -> None:
        if session.parked is not None:
            self._store.discard(session.parked)
        session.parked = None

    def _enter(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
