"""What other threads ask of the engine's thread: calls, run there in the order they came.

All state belongs to the engine's thread, so nothing else needs a lock. When that thread has failed, calls are run
by whoever delivers them; by then they only refuse.
"""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from djinn_checks.errors import EngineError

_T = TypeVar("_T")


class Inbox:
    """A queue of calls. `put`, `deliver` and `ask` may be called from any thread, `hear` from the engine's.

    Attributes:
        failure: what ended the engine's thread, against all intention; None while it serves.
        is_closed: whether the engine's thread shall end; what has come by then is not heard any more.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.failure: Exception | None = None
        self.is_closed = False

    def put(self, call: Callable[[], object]) -> None:
        """Have a call run, if the engine's thread still serves."""
        self._calls.put(call)

    def deliver(self, call: Callable[[], object]) -> None:
        """Have a call run in the engine's thread, or in this one if that has failed."""
        self._calls.put(call)
        if self.failure is not None:
            self.drain()

    def ask(self, call: Callable[[], _T]) -> Future[_T]:
        """Deliver a call and return its answer to come; after a failure that is an `EngineError`."""
        answer: Future[_T] = Future()

        def run() -> None:
            try:
                self.refuse_if_failed()
                answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)

        self.deliver(run)
        return answer

    def hear(self, *, wait: bool = False, timeout_s: float | None = None) -> None:
        """Run the calls that have come. With `wait` there is at least one, or `timeout_s` has passed."""
        with contextlib.suppress(queue.Empty):
            if wait:
                self._calls.get(timeout=timeout_s)()
            while not self.is_closed:
                self._calls.get_nowait()()

    def drain(self) -> None:
        """Run all calls that have come, closed or not."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()()

    def broken(self) -> EngineError:
        """Return what is said after a failure."""
        return EngineError(f"the engine has stopped after a {type(self.failure).__name__}; start the server again")

    def refuse_if_failed(self) -> None:
        """Raise `broken` after a failure."""
        if self.failure is not None:
            raise self.broken()
