"""Serves many sessions on one device, in one thread: it computes, it starts moves, and all state belongs to it.

Other threads only post events to its inbox: a request, a signal, a move that has ended. While sessions
compute, events are looked at between two steps; otherwise the thread sleeps until the next event or the
scheduler's next deadline. A session is moved only when the tokens of its last step have been read by the
host, so everything that was enqueued for its KV has been computed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import TypeVar

import torch
from torch import nn

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.decode_graphs import DecodeGraphs
from djinn_checks.engine.device_memory import block_bytes
from djinn_checks.engine.generation import choose, next_logits
from djinn_checks.engine.inbox import Inbox
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.engine.observer import Observer
from djinn_checks.engine.scheduler import Clock, Scheduler
from djinn_checks.engine.session import MOVING, Session, State
from djinn_checks.engine.session_moves import SessionMoves
from djinn_checks.engine.turn import Listener, Token, Turn, TurnEnd, TurnRequest
from djinn_checks.errors import BusyError, EngineError, KvCapacityError, KvError
from djinn_checks.units import format_bytes

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class AgentEngine:
    """Sessions on one model. `submit`, `cancel` and `post` may be called from any thread.

    Attributes:
        graphs: what decodes single tokens; None: the module.
    """

    def __init__(
        self,
        module: nn.Module,
        store: KvStore,
        *,
        graphs: DecodeGraphs | None = None,
        end_ids: Collection[int] = (),
        idle_s: float = 1.0,
        ttl_s: float = 3600.0,
        max_sessions: int = 256,
        max_waiting: int = 256,
        observer: Observer | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        """Serve `module`, which is on the store's device.

        Args:
            graphs: of the module's decode (`record_decode`); None: the module computes every step.
            end_ids: token ids that end a turn.
            idle_s: seconds without a turn after which a session leaves the device.
            ttl_s: seconds without a turn after which a session is closed.
            max_waiting: turns that may wait at once.
            clock: gives seconds.
        """
        self.store = store
        self.scheduler = Scheduler(
            idle_s=idle_s, ttl_s=ttl_s, max_sessions=max_sessions, clock=clock, can_park=store.can_park
        )
        self._module, self.graphs, self._device = module, graphs, store.memory.device
        self._end_ids, self._max_waiting = frozenset(end_ids), max_waiting
        self._observer = observer or Observer()
        self._clock = clock
        self._inbox = Inbox()
        self._moves = SessionMoves(
            store,
            self.scheduler,
            fail=self._fail,
            post=self._inbox.put,
            observer=self._observer,
            clock=clock,
            compact=getattr(module.config, "_attn_implementation", "sdpa") == "eager",
        )
        self._thread: threading.Thread | None = None

    # Any thread.

    @property
    def failure(self) -> Exception | None:
        """What ended the engine's thread, against all intention; None while it serves.

        After a failure all turns have ended with an error, and whatever is asked is refused.
        """
        return self._inbox.failure

    def submit(self, session_id: str, request: TurnRequest, listener: Listener, *, anonymous: bool = False) -> Turn:
        """Ask for a turn; the listener hears of its tokens, its end, and whatever goes wrong with it."""
        random = torch.Generator().manual_seed(request.seed)
        turn = Turn(request=request, listener=listener, arrived_s=self._clock(), random=random)
        self._inbox.deliver(lambda: self._arrive(session_id, turn, anonymous))
        return turn

    def cancel(self, turn: Turn) -> None:
        """End a turn before its next step. Its session stays, with the tokens so far."""
        self._inbox.put(lambda: self._cancel(turn))

    def post(self, call: Callable[[], _T]) -> Future[_T]:
        """Have `call` run in the engine's thread, where sessions may be looked at and told things."""
        return self._inbox.ask(call)

    def start(self) -> None:
        """Start serving in a thread."""
        self._thread = threading.Thread(target=self._run, name="agent-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all turns, close all sessions, finish the moves under way and let go of the memory."""
        if self._thread is not None:
            self.post(self._end_everything)
            self._thread.join()
        else:
            self._end_everything()
        self._moves.finish()
        for session in list(self.scheduler.sessions.values()):
            self._moves.forget(session)
        self.store.close()

    # The engine's thread, by way of `post`.

    def wait_for_io(self, session_id: str) -> Session:
        """Hear that an agent waits for something outside: it leaves the device when it does not compute."""
        session = self.scheduler.find(session_id)
        session.io_wait, session.wanted, session.last_used_s = True, False, self._clock()
        return session

    def prefetch(self, session_id: str) -> Session:
        """Hear that an agent will compute: it comes back to the device."""
        session = self.scheduler.find(session_id)
        session.io_wait, session.wanted = False, session.state in (State.SWAPPED, State.SWAPPING_OUT)
        session.idle_since_s = session.last_used_s = self._clock()
        return session

    def close_session(self, session_id: str) -> Session:
        """Close a session; a turn that it has is cancelled, a move under way ends first."""
        session = self.scheduler.find(session_id)
        session.closing = True
        if session.turn is not None:
            self._end_turn(session, "cancelled")
        if session.state not in MOVING:
            self._moves.forget(session)
        return session

    # The engine's thread, inside.

    def _run(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        try:
            with reproducible_attention():
                while not self._inbox.is_closed:
                    self.advance(wait=True)
        except Exception as error:  # a defect: nobody may be left waiting for an answer that never comes
            _log.exception("the engine's thread has ended")
            self._inbox.failure = error
            for session in list(self.scheduler.sessions.values()):
                self._detach(session, self._inbox.broken())
            self._inbox.drain()

    def advance(self, *, wait: bool = False) -> None:
        """Hear events, start what the scheduler decides, and compute one step of one session."""
        wait = wait and not self.scheduler.running
        self._inbox.hear(wait=wait, timeout_s=self.scheduler.seconds_to_deadline() if wait else None)
        for session in self.scheduler.to_close():
            self.close_session(session.id)
        for session in self.scheduler.to_sleep():
            self._moves.leave(session)
        self._admit()
        session_or_none = self.scheduler.next_running()
        if session_or_none is not None:
            self._step(session_or_none)
        self._moves.trim()
        self._observer.look(self.scheduler, self.store)

    def _arrive(self, session_id: str, turn: Turn, anonymous: bool) -> None:
        try:
            self._inbox.refuse_if_failed()
            if len(self.scheduler.waiting) >= self._max_waiting:
                raise BusyError(f"{self._max_waiting} requests are waiting, as many as allowed; try again later")
            self._refuse_impossible(turn)
            session = self.scheduler.open(session_id, anonymous=anonymous)
            if session.turn is not None or session.closing:
                raise BusyError(f"session {session_id!r} has a request that has not ended; wait for it, then try again")
        except (BusyError, EngineError) as error:
            turn.listener(error)
            return
        session.turn, session.io_wait, session.last_used_s = turn, False, self._clock()
        self.scheduler.waiting.append(session)

    def _refuse_impossible(self, turn: Turn) -> None:
        need, limit = block_bytes(self.store.shape.device_bytes(turn.capacity)), self.store.memory.limit_bytes
        if need > limit:
            raise KvCapacityError(
                f"the request: {turn.capacity} tokens take {format_bytes(need)} of KV, the device may hold "
                f"{format_bytes(limit)}; ask for fewer tokens or raise the limit (kv_device_gb)"
            )

    def _cancel(self, turn: Turn) -> None:
        turn.cancelled = True
        session = next((owner for owner in self.scheduler.sessions.values() if owner.turn is turn), None)
        if session is not None:
            self._end_turn(session, "cancelled")

    def _admit(self) -> None:
        """Begin the turns whose KV is there, and make room for the others in the order of their arrival."""
        is_short = False
        for session in list(self.scheduler.waiting):
            if session.turn is None or session.state in MOVING:
                continue
            if not session.fits(session.turn) and not is_short:
                is_short = not self._moves.make_place(session, session.turn.capacity)  # may end the turn
            if session.turn is not None and session.state is State.IDLE and session.fits(session.turn):
                self._begin(session, session.turn)
        for session in list(self.scheduler.sessions.values()):
            if session.wanted and not is_short and session.state is State.SWAPPED and session.turn is None:
                is_short = not self._moves.make_place(session, self._expected_tokens(session))

    def _expected_tokens(self, session: Session) -> int:
        """Return the tokens to make place for before the request: with room for a turn like the last, if it fits."""
        tokens = len(session.ids) + session.next_tokens
        fits = block_bytes(self.store.shape.device_bytes(tokens)) <= self.store.memory.limit_bytes
        return tokens if fits else len(session.ids)

    def _begin(self, session: Session, turn: Turn) -> None:
        """Start a turn over what the session's KV has in common with its prompt; the rest of it is computed."""
        if session.cache is None:
            raise KvError(f"session {session.id!r} is {session.state} and has no cache to compute with")
        self.scheduler.waiting.remove(session)
        self.scheduler.running.append(session)
        prompt = turn.request.prompt
        turn.reused_tokens = min(_common(prompt, session.ids), len(prompt) - 1)  # the last one's logits are needed
        del session.ids[turn.reused_tokens :]
        session.cache.truncate(turn.reused_tokens)
        turn.next_ids = list(prompt[turn.reused_tokens :])
        turn.began_s, session.wanted = self._clock(), False
        session.next_tokens = 2 * turn.request.max_tokens  # as much again for what is said to it
        session.go(State.ACTIVE)

    def _step(self, session: Session) -> None:
        turn, cache = session.turn, session.cache
        if turn is None or cache is None:
            raise KvError(f"session {session.id!r} is {session.state} and has no turn or no cache")
        try:
            logits = next_logits(self._module, turn.next_ids, cache, self._device, self.graphs)
            token = choose(logits, turn.request, turn.random)
        except Exception as error:  # of whatever kind: it is this turn's, and the others go on
            _log.exception("a step failed") if not isinstance(error, torch.OutOfMemoryError) else None
            cache.truncate(len(session.ids))
            self._fail(session, error)
            return
        session.ids.extend(turn.next_ids)
        turn.next_ids = [token.id]
        turn.produced += 1
        if turn.produced == 1:
            turn.first_token_at_s = self._clock()
        turn.listener(token)
        if token.id in self._end_ids:
            self._end_turn(session, "stop")
        elif turn.produced == turn.request.max_tokens:
            self._end_turn(session, "length")

    def _end_turn(self, session: Session, reason: str) -> None:
        turn = session.turn
        if turn is None:
            return
        end = turn.end(reason, self._clock())
        self._observer.turn_ended(end)
        self._detach(session, end)
        self._after_turn(session)

    def _fail(self, session: Session, error: Exception) -> None:
        if session.turn is not None:
            self._detach(session, error)
            self._after_turn(session)

    def _detach(self, session: Session, last: TurnEnd | Exception) -> None:
        """Part a session from its turn, and say the last of it."""
        turn = session.turn
        if turn is None:
            return
        for line in (self.scheduler.waiting, self.scheduler.running):
            if session in line:
                line.remove(session)
        session.turn = None
        session.idle_since_s = session.last_used_s = self._clock()
        if session.state is State.ACTIVE:
            session.go(State.IDLE)
        turn.listener(last)

    def _after_turn(self, session: Session) -> None:
        if session.anonymous and session.state in MOVING:
            session.closing = True
        elif session.anonymous or (session.state is State.IDLE and not session.ids):
            self._moves.forget(session)  # a session whose first turn came to nothing has nothing to be kept for

    def _end_everything(self) -> None:
        self._inbox.is_closed = True
        for session in list(self.scheduler.sessions.values()):
            self._fail(session, BusyError("the server is shutting down; try again when it is back"))


def _common(ids: Collection[int], others: Collection[int]) -> int:
    """Return how many ids two sequences have in common from their start."""
    count = 0
    for left, right in zip(ids, others, strict=False):
        if left != right:
            break
        count += 1
    return count


__all__ = ["AgentEngine", "Token", "TurnEnd"]
