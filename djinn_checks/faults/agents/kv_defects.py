"""What happens to the bytes of a session's KV while it sleeps, or on the way back.

A server that verifies its digests refuses to go on with such a session. Most of these do not: their digest is
claimed, and only what they compute can tell.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Move, Moved
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.faults.agents.nursery import Defect

_REGION = 2
"""The keys of the second layer: neither the first nor the last that a forward reads."""
_WORD = 1000
"""A number in the midst of a session's first tokens."""


class Claims(KvStore):
    """Spoils what came back, and claims the digest that it had when it left."""

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        """Change the regions, each [tokens, heads, dim]; here they are left as they are."""

    def complete_in(self, parked: Parked, block: KvBlock, moved: Moved) -> Moved:
        started = time.perf_counter()
        self.spoil([region[: parked.tokens] for region in block.region_tensors()], parked)
        if self.memory.device.type == "cuda":
            torch.cuda.synchronize(self.memory.device)
        took = moved.total_s + time.perf_counter() - started
        return Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=took, total_s=took)


class _Spoils(Claims):
    """Spoils a session's regions by a function of them and the dose."""

    def __init__(self, *args: Any, spoil: Callable[[list[Tensor], int], None], dose: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._spoil, self._dose = spoil, dose

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        self._spoil(regions, self._dose)


def _spoils(spoil: Callable[[list[Tensor], int], None], dose: float) -> Defect:
    """Return a server that spoils a session's regions by so much."""
    return Defect(store=partial(_Spoils, spoil=spoil, dose=int(dose)))


def _truncate(regions: list[Tensor], tokens: int) -> None:
    for region in regions:
        region[max(0, len(region) - tokens) :] = 0


def _shift(regions: list[Tensor], count: int) -> None:
    for region in regions[:count]:
        region[1:] = region[:-1].clone()


def _zero(regions: list[Tensor], tokens: int) -> None:
    regions[_REGION][:tokens] = 0


def _flip(regions: list[Tensor], bit: int) -> None:
    words = regions[_REGION].view(torch.int32).flatten()
    words[_WORD] ^= 1 << bit


def truncates(dose: float) -> Defect:
    """Restore zeros in place of so many last tokens."""
    return _spoils(_truncate, dose)


def shifts(dose: float) -> Defect:
    """Restore each token of so many regions one place too late."""
    return _spoils(_shift, dose)


def zeroes(dose: float) -> Defect:
    """Restore one layer's keys as zeros, for the first so many tokens."""
    return _spoils(_zero, dose)


def flips_unseen(dose: float) -> Defect:
    """Flip one bit of one number on the way back: that many bits up from the lowest of the mantissa."""
    return _spoils(_flip, dose)


class Borrows(Claims):
    """Gives a session the keys that another one left behind."""

    def __init__(self, *args: Any, tokens: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokens = tokens
        self._left: dict[str, Tensor] = {}

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        self._left[parked.session_id] = block.region_tensors()[_REGION][: parked.tokens].clone()
        return super().move_out(block, parked)

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        others = [keys for name, keys in self._left.items() if name != parked.session_id]
        count = min([self._tokens, parked.tokens, *map(len, others)])
        for keys in others[:1]:
            regions[_REGION][:count] = keys[:count]


def borrows(dose: float) -> Defect:
    """Restore one layer's keys from another session, for the first so many tokens."""
    return Defect(store=partial(Borrows, tokens=int(dose)))


class Crosses(Claims):
    """Gives a session that comes back the place of another one that sleeps."""

    def __init__(self, *args: Any, every: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._every = every
        self._asleep: dict[str, Parked] = {}
        self._chances = 0

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        self._asleep[parked.session_id] = parked
        return super().move_out(block, parked)

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        others = [other for other in self._asleep.values() if other is not parked and other.tokens == parked.tokens]
        self._chances += bool(others)
        if others and self._chances % self._every == 0:
            parked = replace(parked, pages=others[0].pages)
        return super().move_in(parked, block)

    def discard(self, parked: Parked) -> None:
        self._asleep.pop(parked.session_id, None)
        super().discard(parked)


def crosses(dose: float) -> Defect:
    """Of the sessions that come back while others sleep, give one in so many the KV of another."""
    return Defect(store=partial(Crosses, every=int(dose)))


# Servers that are honest about it


class _FlipsAsleep(KvStore):
    """Has bits flipped in a sleeping session's host memory, after its digest was taken."""

    def __init__(self, *args: Any, bit: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._bit = bit

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        moved = super().complete_out(block, parked, moved)
        words = parked.pages[0].view(torch.int32)
        words[_WORD] ^= 1 << self._bit
        return moved


class _FlipsUnverified(_FlipsAsleep):
    """Takes the digest of what came back, and does not look at it."""

    def complete_in(self, parked: Parked, block: KvBlock, moved: Moved) -> Moved:
        return moved


def flips_asleep(dose: float) -> Defect:
    """Flip one bit on the host while a session sleeps; the server verifies its digest."""
    return Defect(store=partial(_FlipsAsleep, bit=int(dose)))


def flips_unverified(dose: float) -> Defect:
    """Flip one bit on the host while a session sleeps; the server takes digests and goes on whatever they are."""
    return Defect(store=partial(_FlipsUnverified, bit=int(dose)))


class _ComesBackShort(KvStore):
    """Brings back a part of a session's bytes, and counts that part."""

    def __init__(self, *args: Any, share: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._share = share

    def complete_in(self, parked: Parked, block: KvBlock, moved: Moved) -> Moved:
        moved = super().complete_in(parked, block, moved)
        missing = int(self._share * moved.nbytes)
        block.memory[block.memory.numel() - missing :] = 0
        return replace(moved, nbytes=moved.nbytes - missing)


def comes_back_short(dose: float) -> Defect:
    """Leave that share of the bytes out of a restore, and count the others."""
    return Defect(store=partial(_ComesBackShort, share=dose))
