"""Streams and events that run what was enqueued in any order that they allow, as a GPU may."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any


class Event:
    def __init__(self) -> None:
        self.reached = True  # an event that was never recorded holds nobody up


class Streams:
    """Three streams: "link", "stage" and "compute". What is enqueued meets `current`."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[tuple[str, Any]]] = {name: deque() for name in ("link", "stage", "compute")}
        self.current = "compute"

    def enqueue(self, work: Callable[[], None], *, on: str | None = None) -> None:
        self.queues[on or self.current].append(("work", work))

    def record(self, *, on: str | None = None) -> Event:
        event = Event()
        event.reached = False
        self.queues[on or self.current].append(("record", event))
        return event

    def wait_for(self, event: Event, *, on: str | None = None) -> None:
        self.queues[on or self.current].append(("wait", event))

    def run(self, chance: random.Random, steps: int | None = None) -> None:
        """Run what may run next on a stream chosen at random, `steps` times or until all is done."""
        while steps is None or steps > 0:
            waiting = [queue for queue in self.queues.values() if queue]
            ready = [queue for queue in waiting if queue[0][0] != "wait" or queue[0][1].reached]
            if not ready:
                assert not waiting, "the streams wait for each other"
                return
            kind, what = chance.choice(ready).popleft()
            if kind == "work":
                what()
            elif kind == "record":
                what.reached = True
            steps = None if steps is None else steps - 1


class StreamLink:
    """A `Stage` on one of the streams, with the events of `CudaLink`."""

    def __init__(self, streams: Streams, name: str, slots: int) -> None:
        self._streams, self._name = streams, name
        self._done = [Event() for _ in range(slots)]
        self._reached = [Event() for _ in range(slots)]

    def copy(self, slot: int, destination: Any, source: Any, *, after: int | None) -> None:
        self.run(slot, lambda: self._streams.enqueue(lambda: destination.copy_(source)), after=after)

    def run(self, slot: int, work: Callable[[], Any], *, after: int | None) -> None:
        if after is not None:
            self._streams.wait_for(self._reached[after], on=self._name)
        before, self._streams.current = self._streams.current, self._name
        work()
        self._streams.current = before
        self._done[slot] = self._streams.record(on=self._name)

    def wait(self, slot: int) -> None:
        self._streams.wait_for(self._done[slot])

    def mark(self, slot: int) -> None:
        self._reached[slot] = self._streams.record()

    def close(self) -> None: ...
