"""What happens to the bytes of a session's KV while it sleeps, or on the way back.

A server that verifies its digests refuses to go on with such a session. Most of these do not: their digest is
claimed, and only what they compute can tell.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Moved, Wait
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.errors import KvDigestError
from djinn_checks.faults.agents.nursery import Defect

_REGION = 2
"""The keys of the second layer: neither the first nor the last that a forward reads."""
_WORD = 1000
"""A number in the midst of a session's first tokens."""


class _Claims(KvStore):
    """Spoils what came back, and claims the digest that it had when it left."""

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        """Change the regions, each [tokens, heads, dim]; here they are left as they are."""

    def move_in(self, parked: Parked, block: KvBlock) -> Wait:
        started, wait = time.perf_counter(), super().move_in(parked, block)

        def finish() -> Moved:
            with contextlib.suppress(KvDigestError):
                wait()
            self.spoil([region[: parked.tokens] for region in block.region_tensors()], parked)
            if self.memory.device.type == "cuda":
                torch.cuda.synchronize(self.memory.device)
            took = time.perf_counter() - started
            return Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=took, total_s=took)

        return finish


def _claims(spoil: Callable[[list[Tensor]], None]) -> Defect:
    """Return a server that spoils a session's regions, each [tokens, heads, dim], and claims their digest."""

    def wrapped(self: KvStore, regions: list[Tensor], parked: Parked) -> None:
        spoil(regions)

    return Defect(store=type("Claims", (_Claims,), {"spoil": wrapped}))


def truncates(dose: float) -> Defect:
    """Restore zeros in place of so many last tokens."""

    def spoil(regions: list[Tensor]) -> None:
        for region in regions:
            region[max(0, len(region) - int(dose)) :] = 0

    return _claims(spoil)


def shifts(dose: float) -> Defect:
    """Restore each token of so many regions one place too late."""

    def spoil(regions: list[Tensor]) -> None:
        for region in regions[: int(dose)]:
            region[1:] = region[:-1].clone()

    return _claims(spoil)


def zeroes(dose: float) -> Defect:
    """Restore one layer's keys as zeros, for the first so many tokens."""

    def spoil(regions: list[Tensor]) -> None:
        regions[_REGION][: int(dose)] = 0

    return _claims(spoil)


def flips_unseen(dose: float) -> Defect:
    """Flip one bit of one number on the way back: that many bits up from the lowest of the mantissa."""

    def spoil(regions: list[Tensor]) -> None:
        words = regions[_REGION].view(torch.int32).flatten()
        words[_WORD] ^= 1 << int(dose)

    return _claims(spoil)


class _Borrows(_Claims):
    """Gives a session the keys that another one left behind."""

    tokens = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._left: dict[str, Tensor] = {}

    def move_out(self, block: KvBlock, parked: Parked) -> Wait:
        self._left[parked.session_id] = block.region_tensors()[_REGION][: parked.tokens].clone()
        return super().move_out(block, parked)

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        others = [keys for name, keys in self._left.items() if name != parked.session_id]
        count = min([self.tokens, parked.tokens, *map(len, others)])
        for keys in others[:1]:
            regions[_REGION][:count] = keys[:count]


def borrows(dose: float) -> Defect:
    """Restore one layer's keys from another session, for the first so many tokens."""
    return Defect(store=type("Borrows", (_Borrows,), {"tokens": int(dose)}))


class _Crosses(_Claims):
    """Gives a session that comes back the place of another one that sleeps."""

    every = 1

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._asleep: dict[str, Parked] = {}
        self._chances = 0

    def move_out(self, block: KvBlock, parked: Parked) -> Wait:
        self._asleep[parked.session_id] = parked
        return super().move_out(block, parked)

    def move_in(self, parked: Parked, block: KvBlock) -> Wait:
        others = [one for one in self._asleep.values() if one is not parked and one.tokens == parked.tokens]
        self._chances += bool(others)
        if others and self._chances % self.every == 0:
            parked = replace(parked, pages=others[0].pages)
        return super().move_in(parked, block)

    def discard(self, parked: Parked) -> None:
        self._asleep.pop(parked.session_id, None)
        super().discard(parked)


def crosses(dose: float) -> Defect:
    """Give every so-manieth session that comes back while others sleep the KV of one of those."""
    return Defect(store=type("Crosses", (_Crosses,), {"every": int(dose)}))


# Servers that are honest about it


class _FlipsAsleep(KvStore):
    """Has bits flipped in a sleeping session's host memory, after its digest was taken."""

    bit = 0
    verifies = True

    def move_out(self, block: KvBlock, parked: Parked) -> Wait:
        wait = super().move_out(block, parked)

        def finish() -> Moved:
            moved = wait()
            words = parked.pages[0].view(torch.int32)
            words[_WORD] ^= 1 << self.bit
            return moved

        return finish

    def move_in(self, parked: Parked, block: KvBlock) -> Wait:
        if self.verifies:
            return super().move_in(parked, block)
        return self._back.back(block.used_rows(parked.tokens), parked.pages)


def flips_asleep(dose: float) -> Defect:
    """Flip one bit on the host while a session sleeps; the server verifies its digest."""
    return Defect(store=type("FlipsAsleep", (_FlipsAsleep,), {"bit": int(dose)}))


def flips_unverified(dose: float) -> Defect:
    """Flip one bit on the host while a session sleeps; the server takes digests and goes on whatever they are."""
    return Defect(store=type("FlipsAsleep", (_FlipsAsleep,), {"bit": int(dose), "verifies": False}))


class _ComesBackShort(KvStore):
    """Brings back a part of a session's bytes, and counts that part."""

    share = 1.0

    def move_in(self, parked: Parked, block: KvBlock) -> Wait:
        wait = super().move_in(parked, block)

        def finish() -> Moved:
            moved = wait()
            missing = int(self.share * moved.nbytes)
            block.memory[block.memory.numel() - missing :] = 0
            return replace(moved, nbytes=moved.nbytes - missing)

        return finish


def comes_back_short(dose: float) -> Defect:
    """Leave that share of the bytes out of a restore, and count the others."""
    return Defect(store=type("ComesBackShort", (_ComesBackShort,), {"share": dose}))
