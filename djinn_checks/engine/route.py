"""How segments get to their places: straight over the link, or encoded, by way of a landing zone.

A route issues whatever may be issued: each step as soon as the bytes that it overwrites have been used. On CUDA the
order is kept by events between streams and the host waits for none of them. What fails belongs to the forward that
needs those bytes, and is raised there.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
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
        self, plan: Plan, link: Link, *, copies: Sequence[Sequence[tuple[Tensor, Tensor]]], copied: Copied
    ) -> None:
        """Issue nothing yet.

        Args:
            link: has a slot for each copy.
            copies: of each load, where its copies go and come from, 1-d uint8.
        """
        self._loads, self._link, self._told = plan.loads, link, copied
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
        for slot, (place, host) in zip(self._slots[load], self._copies[load], strict=True):
            try:
                self._link.copy(slot, place, host, after=after)
            except Exception as error:  # it belongs to the forward that needs these bytes, not to this one
                self._failed[load] = error
                return
            self._told(host.numel())

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

    The link is followed by a stage that decodes. What uses the link's copies is the stage, so it is the stage that
    waits for them and marks them used; the computation waits for the stage.
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
        self._copied = self._decoded = 0  # steps given to the link and to the stage
        self._failed: dict[int, Exception] = {}
        self._awaited: set[int] = set()

    def advance(self, used: int) -> None:
        while self._copy_next(used) or self._decode_next(used):
            pass

    def _copy_next(self, used: int) -> bool:
        """Copy if the bytes that were there have been given to a decode, and say whether it was so."""
        count = len(self._loads)
        slot = self._copied % count
        landing, zone, host = self._landings[slot], self._zone[slot], self._hosts[slot]
        if self._copied >= used + count:
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

    def _decode_next(self, used: int) -> bool:
        """Decode if the place has been used, and say whether it was so."""
        count = len(self._loads)
        slot = self._decoded % count
        blocker = self._decoded - self._loads[slot].blocker_distance
        if self._decoded >= self._copied or blocker >= used:
            return False
        self._decoded += 1
        if self._landings[slot] is None:
            self._failed.pop(slot, None)
        if slot not in self._failed:
            try:
                self.stage.run(slot, lambda: self._decode(slot), after=blocker % count if blocker >= 0 else None)
            except Exception as error:
                self._failed[slot] = error
        if slot in self._failed and self._landings[slot] is not None:
            self._link.mark(slot)  # no decode will: or the copy that overwrites what has landed waits for ever
        return True

    def _decode(self, slot: int) -> None:
        """Runs in the stage: its stream is the current one, or it is in the stage's thread."""
        if self._landings[slot] is None:
            self._decoders[slot]()
            return
        try:
            self._link.wait(slot)
            self._decoders[slot]()
        finally:
            self._link.mark(slot)

    def wait(self, slot: int) -> None:
        self._awaited.add(slot)
        if slot in self._failed:
            raise self._failed.pop(slot)
        self.stage.wait(slot)

    def mark(self, slot: int) -> None:
        if slot not in self._awaited:  # nobody used it; but a step that is still to come must not be taken for done
            with contextlib.suppress(Exception):
                self.stage.wait(slot)
        self._awaited.discard(slot)
        self.stage.mark(slot)

    def close(self) -> None:
        self.stage.close()
        self._link.close()
