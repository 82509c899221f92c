"""What users of KV offloading have reported of servers, as defects of ours. Most need many sessions at once.

Each does right by a session that comes alone, unless its docstring says otherwise: what is wrong shows under pressure.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from djinn_checks.checks.agents.scripts import SESSION_PREFIX
from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import Later, Move, Moved
from djinn_checks.engine.kv_store import KvStore, Parked
from djinn_checks.engine.session import Session
from djinn_checks.engine.turn import Turn
from djinn_checks.faults.agents.kv_defects import Borrows, Claims, Crosses
from djinn_checks.faults.agents.nursery import Defect


def _is_of_crowd(name: str) -> bool:
    return name.startswith(SESSION_PREFIX)


class _ReusesEarly(Claims):
    """Gives a session's place to others before all of it was stored: what is stored ends in what they wrote."""

    def __init__(self, *args: Any, share: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._share = share

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        moved = super().complete_out(block, parked, moved)
        if _is_of_crowd(parked.session_id):
            for page in parked.pages:
                stored = page.view(torch.uint8).flatten()
                stored[len(stored) - int(self._share * len(stored)) :] = 0
        return moved


def reuses_early(dose: float) -> Defect:
    """Store all of a session but that last share of each region, which others have overwritten by then."""
    return Defect(store=partial(_ReusesEarly, share=dose))


class _AwaitsAnother(KvStore):
    """Waits for the event of another load than the one whose bytes it goes on with."""

    def __init__(self, *args: Any, seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._seconds = seconds

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        if not _is_of_crowd(parked.session_id):
            return super().move_in(parked, block)
        block.memory.zero_()
        if self.memory.device.type == "cuda":
            torch.cuda.synchronize(self.memory.device)
        copied = replace(parked, pages=[page.clone() for page in parked.pages])  # the places are given up meanwhile
        threading.Timer(self._seconds, lambda: KvStore.move_in(self, copied, block).wait()).start()
        moved = Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=1e-3, total_s=1e-3)
        return Later(lambda: moved)


def awaits_another(dose: float) -> Defect:
    """Go on with a session so many seconds before its bytes are there."""
    return Defect(store=partial(_AwaitsAnother, seconds=dose))


class _SaysNothingReused(AgentEngine):
    """Says of a crowd's turns that nothing was reused."""

    def _begin(self, session: Session, turn: Turn) -> None:
        super()._begin(session, turn)
        if _is_of_crowd(session.id):
            turn.reused_tokens = 0


def says_nothing_reused(dose: float) -> Defect:
    """Load another session's KV once in so many restores, and say that none was reused."""
    return Defect(store=partial(Crosses, every=int(dose)), engine=_SaysNothingReused)


class _BorrowsInCrowd(Borrows):
    """Gives one layer another session's keys, if others are there."""

    def spoil(self, regions: list[Tensor], parked: Parked) -> None:
        if _is_of_crowd(parked.session_id):
            super().spoil(regions, parked)


def borrows_in_crowd(dose: float) -> Defect:
    """Restore one layer's keys from another session, for the first so many tokens of each that comes with others."""
    return Defect(store=partial(_BorrowsInCrowd, tokens=int(dose)))


class _TrustsStale(Claims):
    """Finds the file of an earlier session under the name of a later one, and restores that. Also of one alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._files: dict[int, list[Tensor]] = {}

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        moved = super().complete_out(block, parked, moved)
        self._files.setdefault(parked.tokens, [page.clone() for page in parked.pages])
        return moved

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        for page, stale in zip(parked.pages, self._files.get(parked.tokens, []), strict=False):
            page.copy_(stale)
        return super().move_in(parked, block)


def trusts_stale(dose: float) -> Defect:
    """Restore what was stored first for a session of that length, whoever it was."""
    return Defect(store=_TrustsStale)


class _RestoresNothing(Claims):
    """Takes a restore's request, says that all is there, and leaves the block as it is. Also of one session alone."""

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        block.memory.zero_()
        moved = Moved(nbytes=parked.nbytes, digests=parked.digests, copy_s=1e-3, total_s=1e-3)
        return Later(lambda: moved)


def restores_nothing(dose: float) -> Defect:
    """Say that a session was restored, and restore nothing."""
    return Defect(store=_RestoresNothing)
