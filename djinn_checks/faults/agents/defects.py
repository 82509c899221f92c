"""What goes wrong in agent servers. Each function takes a dose and returns what stands in for the server's parts.

The server's own process imports them by name and runs them before it serves. What spoils a session's bytes is in
`kv_defects.py`; here are servers that move nothing, move too late, or leave something behind.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from djinn_checks.checks.agents.scripts import SESSION_PREFIX
from djinn_checks.digest import digest_rows
from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Later, Move, Moved, pair_parts
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.engine.session import Session
from djinn_checks.engine.session_moves import SessionMoves
from djinn_checks.engine.turn import Turn
from djinn_checks.faults.agents.nursery import Defect

_DIES_AT = 2
"""The sleep in which the server dies: the first one is of the session that goes before."""


def nothing(dose: float) -> Defect:
    """Return a server without a defect."""
    return Defect()


def copy_share(block: KvBlock, share: float) -> Tensor:
    """Return other memory of the device that holds a share of a block's bytes.

    On a CPU a mapping of its own, as blocks are. On a GPU PyTorch's allocator gives it, perhaps of what something
    else had left there, as it would to a server that keeps a copy by mistake.
    """
    source = block.memory[: int(share * block.memory.numel())]
    if source.device.type == "cuda":
        return source.clone()
    kept = HostArena(source.numel(), pinned=False).buffer
    return kept.copy_(source)


# Servers that do not move


class _NeverLeaves(SessionMoves):
    def leave(self, session: Session) -> bool:
        session.io_wait = False
        return False


def never_swaps(dose: float) -> Defect:
    """Leave every session where it is."""
    return Defect(moves=_NeverLeaves)


class _Keeps(KvStore):
    """Moves a session out as it should, and keeps a share of its bytes on the device."""

    def __init__(self, *args: Any, share: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self._share = share
        self._kept: dict[str, Tensor] = {}

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        moved = super().complete_out(block, parked, moved)
        self._kept[parked.session_id] = copy_share(block, self._share)
        return moved

    def discard(self, parked: Parked) -> None:
        self._kept.pop(parked.session_id, None)
        super().discard(parked)


def keeps(dose: float) -> Defect:
    """Report a swap, and keep that share of the KV on the device."""
    return Defect(store=partial(_Keeps, share=dose))


class _KeepsBehind(_Keeps):
    """Keeps a session's bytes on the device for good, and gives back as much of other memory with its block."""

    _other: Tensor | None = None

    def allocate(self, tokens: int) -> KvBlock:
        block = super().allocate(tokens)
        self._other = copy_share(block, 1.0)
        return block

    def release(self, block: KvBlock) -> None:
        self._other = None
        super().release(block)

    def discard(self, parked: Parked) -> None:
        KvStore.discard(self, parked)


def keeps_behind(dose: float) -> Defect:
    """Report a swap, keep the KV on the device, and free as much of something else."""
    return Defect(store=_KeepsBehind)


class _KeepsCrowd(_Keeps):
    """Does right by a session that comes alone, and keeps those that come many at a time."""

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        if parked.session_id.startswith(SESSION_PREFIX):
            return super().complete_out(block, parked, moved)
        return KvStore.complete_out(self, block, parked, moved)


def keeps_crowd(dose: float) -> Defect:
    """Report every swap, and keep that share of the KV of the agents that come many at a time."""
    return Defect(store=partial(_KeepsCrowd, share=dose))


class _CountsOnly(KvStore):
    """Counts moves of bytes that never leave the device."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stayed: dict[str, Tensor] = {}

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        self._stayed[parked.session_id] = copy_share(block, 1.0)
        return Later(partial(self._claim, parked))

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        stayed = KvBlock(self.shape, self._stayed.pop(parked.session_id))
        for place, bytes_ in zip(block.used(parked.tokens), stayed.used(parked.tokens), strict=True):
            place.copy_(bytes_)
        return Later(partial(self._claim, parked))

    def _claim(self, parked: Parked) -> Moved:
        return Moved(nbytes=parked.nbytes, digests=(1,) * len(self.shape.regions), copy_s=1e-3, total_s=1e-3)


def counts_only(dose: float) -> Defect:
    """Count swaps, restores, bytes and digests, and move nothing."""
    return Defect(store=_CountsOnly)


class _Dawdles(KvStore):
    """Copies a session's regions out with a pause behind each, and says that it took no time."""

    def __init__(self, *args: Any, pause_s: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pause_s = pause_s

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        return Later(partial(self._dawdle, block.used_rows(parked.tokens), parked))

    def _dawdle(self, groups: list[Tensor], parked: Parked) -> Moved:
        for device, host in pair_parts([row for group in groups for row in group], parked.pages):
            host.copy_(device)
            time.sleep(self._pause_s)
        parked.digests = tuple(value for group in groups for value in digest_rows(group).tolist())
        return Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=1e-6, total_s=1e-6)


def dawdles(dose: float) -> Defect:
    """Rest for so many seconds after each region that is copied out, and say that the move took no time."""
    return Defect(store=partial(_Dawdles, pause_s=dose))


# Servers that compute again


class _Forgets(SessionMoves):
    """Loses the last tokens of a session that comes back."""

    def __init__(self, *args: Any, tokens: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tokens = tokens
        self.forgotten: dict[str, int] = {}

    def _is_back(self, session: Session, done: Future[Moved], allocate_s: float) -> None:
        lost = session.ids[max(0, len(session.ids) - self._tokens) :]
        del session.ids[len(session.ids) - len(lost) :]
        self.forgotten[session.id] = len(lost)
        super()._is_back(session, done, allocate_s)


class _Hides(AgentEngine):
    """Computes again what was lost, and says that it was kept."""

    def _begin(self, session: Session, turn: Turn) -> None:
        super()._begin(session, turn)
        if isinstance(self._moves, _Forgets):
            turn.reused_tokens += self._moves.forgotten.pop(session.id, 0)


def forgets(dose: float) -> Defect:
    """Lose the last tokens in a sleep and compute them again, saying so."""
    return Defect(moves=partial(_Forgets, tokens=int(dose)))


def forgets_secretly(dose: float) -> Defect:
    """Lose the last tokens in a sleep and compute them again, saying that they were kept."""
    return Defect(moves=partial(_Forgets, tokens=int(dose)), engine=_Hides)


# Servers that are late, or leave something behind


class _FreesLate(KvStore):
    """Gives a block back some time after it was left."""

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds

    def release(self, block: KvBlock) -> None:
        later = threading.Timer(self._seconds, self._give, [block])
        later.daemon = True
        later.start()

    def _give(self, block: KvBlock) -> None:
        super().release(block)
        self.memory.trim()


def frees_late(dose: float) -> Defect:
    """Give memory back so many seconds after it was left."""
    return Defect(store=partial(_FreesLate, seconds=dose))


class _WakesLate(KvStore):
    """Begins a restore some time after it was asked for."""

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        return Later(partial(self._move_late, parked, block))

    def _move_late(self, parked: Parked, block: KvBlock) -> Moved:
        time.sleep(self._seconds)
        return super().move_in(parked, block).wait()


def wakes_late(dose: float) -> Defect:
    """Begin each restore so many seconds late."""
    return Defect(store=partial(_WakesLate, seconds=dose))


class _Leaks(SessionMoves):
    """Keeps a share of a closed session's bytes on the device."""

    def __init__(self, *args: Any, share: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._share = share
        self._leaked: list[Tensor] = []

    def forget(self, session: Session) -> None:
        if session.block is not None:
            self._leaked.append(copy_share(session.block, self._share))
        super().forget(session)


def leaks(dose: float) -> Defect:
    """Keep that share of each closed session's KV on the device."""
    return Defect(moves=partial(_Leaks, share=dose))


class _Dies(KvStore):
    """Ends the process while a session sleeps."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sleeps = 0

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        self._sleeps += 1
        if self._sleeps == _DIES_AT:
            threading.Timer(0.2, os._exit, [1]).start()
        return super().move_out(block, parked)


def dies_asleep(dose: float) -> Defect:
    """Die while the second session sleeps."""
    return Defect(store=_Dies)


# Servers that do not wait for what they copy


class _Races(KvStore):
    """Says that a session is back before its bytes are."""

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        block.memory.zero_()
        if self.memory.device.type == "cuda":
            torch.cuda.synchronize(self.memory.device)
        copied = replace(parked, pages=[page.clone() for page in parked.pages])  # the places are given up meanwhile
        threading.Timer(self._seconds, self._move_unawaited, [copied, block]).start()
        moved = Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=1e-3, total_s=1e-3)
        return Later(lambda: moved)

    def _move_unawaited(self, parked: Parked, block: KvBlock) -> None:
        super().move_in(parked, block).wait()


def races(dose: float) -> Defect:
    """Continue a session while its bytes are still to come, so many seconds before they do."""
    return Defect(store=partial(_Races, seconds=dose))
