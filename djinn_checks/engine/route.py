"""How segments get to their places: straight over the link, or encoded, by way of a landing zone.

A route issues whatever copy may be issued: each as soon as the bytes that it overwrites have been used. On CUDA the
order is kept by events between streams and the host waits for none of them. What fails belongs to the forward that
needs those bytes, and is raised there.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from djinn_checks.engine.link import Link, Stage
from djinn_checks.engine.plan import Plan

Copied = Callable[[int], None]
"""Is told the bytes of each copy that was given to the link."""


class Route(Protocol):
    """Takes the loads of a plan, cycle after cycle, to their places. A slot is the number of a load in the cycle."""

    def advance(self, used: int) -> None:
        """Issue what may be issued, `used` loads having been used since the start."""
        ...

    def wait(self, slot: int) -> None:
        """Make the computation that follows wait until the load is in its place. Raises what went wrong with it."""
        ...

    def mark(self, slot: int) -> None:
        """Say that all computation that uses the load has been enqueued."""
        ...

    def close(self) -> None:
        """Finish what is under way."""
        ...


class DirectRoute:
    """Copies from host memory straight into the place of each load: one, or several if it lies in several pieces.

    The link numbers copies where the plan numbers loads, so each copy has a slot of its own there.
    """

    def __init__(
        self,
        plan: Plan,
        link: Link,
        *,
        copies: Sequence[Sequence[tuple[Tensor, Tensor]]],
        copied: Copied,
        ready: Callable[[int], None],
    ) -> None:
        """Issue nothing yet.

        Args:
            link: has a slot for each copy.
            copies: of each load, where its copies go and come from, 1-d uint8.
            ready: waits until the copies of a load may read where they come from.
        """
        self._loads, self._link, self._told, self._ready = plan.loads, link, copied, ready
        self._copies = copies
        starts = list(itertools.accumulate((len(pieces) for pieces in copies), initial=0))
        self._slots = [range(start, end) for start, end in itertools.pairwise(starts)]
        self._issued = 0
        self._failed: dict[int, Exception] = {}

    def advance(self, used: int) -> None:
        """Give the link every copy whose place is free.

        That includes the copies of the next load to be used, since all loads before it have been.
        """
        count = len(self._loads)
        while count and self._issued < used + count:
            slot = self._issued % count
            blocker = self._issued - self._loads[slot].blocker_distance
            if blocker >= used:
                return
            self._copy(slot, self._slots[blocker % count][-1] if blocker >= 0 else None)
            self._issued += 1

    def _copy(self, load: int, after: int | None) -> None:
        self._failed.pop(load, None)
        try:
            self._ready(load)
            for slot, (place, host) in zip(self._slots[load], self._copies[load], strict=True):
                self._link.copy(slot, place, host, after=after)
                self._told(host.numel())
        except Exception as error:  # it belongs to the forward that needs these bytes, not to this one
            self._failed[load] = error

    def wait(self, slot: int) -> None:
        if slot in self._failed:
            raise self._failed.pop(slot)
        for copy in self._slots[slot]:
            self._link.wait(copy)

    def mark(self, slot: int) -> None:
        for copy in self._slots[slot]:
            self._link.mark(copy)

    def close(self) -> None:
        self._link.close()


class DecodingRoute:
    """A copy of encoded bytes to where they land, and a decode from there into the load's place.

    Copies run ahead into the landing zone. A decode is given when its load is used, to a stage that runs it on the
    stream that computes: while another stream waits for a copy beside that of the computation, a GPU may read up
    to 2.5 GB/s of host memory for nothing (`docs/engine.md`). What uses the link's copies is the stage, so it is the
    stage that waits for them and marks them used.
    """

    def __init__(
        self,
        plan: Plan,
        link: Link,
        stage: Stage,
        *,
        landings: Sequence[Tensor | None],
        hosts: Sequence[Tensor | None],
        decoders: Sequence[Callable[[], Any]],
        copied: Copied,
    ) -> None:
        """Issue nothing yet.

        Args:
            landings, hosts: where the encoded bytes of each load go and come from, 1-d uint8; None if they stay on the
                device.
            decoders: decode what has landed, or stayed, into the load's place, on the current stream.
        """
        self._loads, self._landings = plan.loads, plan.landings
        self._link, self.stage, self._told = link, stage, copied
        self._zone, self._hosts, self._decoders = landings, hosts, decoders
        self._copied = self._decoded = 0  # steps given to the link and to the stage, or left out
        self._used = 0
        self._failed: dict[int, Exception] = {}

    def advance(self, used: int) -> None:
        self._used = used
        while self._copy_next():
            pass

    def _copy_next(self) -> bool:
        """Copy if the bytes that were there have been given to a decode, and say whether it was so."""
        count = len(self._loads)
        slot = self._copied % count
        landing, zone, host = self._landings[slot], self._zone[slot], self._hosts[slot]
        if self._copied >= self._used + count:
            return False
        if landing is None or zone is None or host is None:
            self._copied += 1
            return True
        blocker = self._copied - landing.blocker_distance
        if blocker >= self._decoded:
            return False
        self._copied += 1
        self._failed.pop(slot, None)
        try:
            self._link.copy(slot, zone, host, after=blocker % count if blocker >= 0 else None)
        except Exception as error:  # it belongs to the forward that needs these bytes, not to this one
            self._failed[slot] = error
            return True
        self._told(host.numel())
        return True

    def wait(self, slot: int) -> None:
        if self._decoded <= self._used:
            self._give(slot, self._decoders[slot])
        self.stage.wait(slot)

    def _give(self, slot: int, decoder: Callable[[], Any]) -> None:
        """Give the stage the decode of the load that is used next, the computation before it having been enqueued."""
        if slot in self._failed:
            raise self._failed.pop(slot)
        blocker = self._decoded - self._loads[slot].blocker_distance
        after = blocker % len(self._loads) if blocker >= 0 else None
        self.stage.run(slot, partial(self._decode, slot, decoder), after=after)
        self._decoded += 1

    def _decode(self, slot: int, decoder: Callable[[], Any]) -> None:
        """Runs in the stage: its stream is the current one, or it is in the stage's thread."""
        if self._landings[slot] is None:
            decoder()
            return
        try:
            self._link.wait(slot)
            decoder()
        finally:
            self._link.mark(slot)

    def mark(self, slot: int) -> None:
        if self._decoded <= self._used:  # nobody used it, but a copy that is still to come must not be taken for done
            try:
                self._give(slot, _leave_out)
            except Exception:
                self._leave_what_failed(slot)
            with contextlib.suppress(Exception):
                self.stage.wait(slot)
        self.stage.mark(slot)

    def _leave_what_failed(self, slot: int) -> None:
        """Take what has landed for used, as no decode will: or the copy that overwrites it waits for ever."""
        self._decoded += 1
        if self._landings[slot] is not None:
            self._link.mark(slot)

    def close(self) -> None:
        self.stage.close()
        self._link.close()


def _leave_out() -> None:
    """Stands in for a decode."""
