"""A system under load: a decode loop at batch 1, token after token, for as long as the check measures.

The host waits for the computation of each token, as every `generate()` does to know whether to go on, and
never for the device as a whole: that would also wait for copies that run ahead for the next token.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from djinn_checks.checks.contract import ask, read_answer, read_claim
from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.checks.pcie.weights import KnownWeights, compare_weights
from djinn_checks.checks.refusals import open_system
from djinn_checks.checks.settle import Progress
from djinn_checks.decode_cache import CACHE_NAMES
from djinn_checks.errors import ModelUnsupportedError
from djinn_checks.instruments.memory import HostGrowth, PeakMemory
from djinn_checks.instruments.weight_witness import WeightEvidence, WeightWitness
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import System

Enter = Callable[[Callable[[], None]], None]
Again = Callable[[float, float], bool]
"""From the start and end of a stretch, whether another one is worth its time."""
MOST_STRETCHES = 3
"""How often the link may be looked at: who else uses the host's memory or the switch can only make a stretch slower."""
_REST_S = 0.05
"""Left on a GPU between the last pass and the release of the system's memory: whoever releases pinned memory keeps the
readings of the counters waiting (200 to 390 ms for 13 GB on an H200), and one has to lie behind the last pass."""


def decode_stretches(
    system: System,
    params: PcieParams,
    device: torch.device,
    progress: Progress,
    *,
    known: KnownWeights | None = None,
    taken_before: int = 0,
    enter: Enter = lambda step: None,
    leave: Callable[[], None] = lambda: None,
    again: Again = lambda start_s, end_s: False,
) -> list[DecodeRun]:
    """Open the system, warm it up, and decode for `params.duration_s`, at least one pass; again if that is worth it.

    Args:
        progress: called about twice a second, in seconds.
        known: the weights that are looked for in one pass before the start; None: they are not.
        taken_before: device memory beside PyTorch's allocator that was taken while the system was built.
        enter: called when all is warm, with a function that decodes one token; what is judged starts when it returns.
        leave: called behind the last pass, while the system still holds its memory.
        again: called behind each stretch, `MOST_STRETCHES` of which there are at the most.

    Returns:
        A run for each stretch. What is of the whole time, such as the peak of memory, is the same in all.

    Raises:
        ModelUnsupportedError: the model keeps no cache, so there is nothing to decode with.
        SystemContractError: a forward returns no logits, or the system claims no number.
        SystemRefusedError: the system says no when it is opened.
    """
    with HostGrowth() as host, PeakMemory(device, whole_device=True, taken_before=taken_before) as memory, system:
        began = time.monotonic()
        model = open_system(system)
        loop = _Loop(model, device, params.context_tokens)
        opened = time.monotonic()
        witnessed = _witness(loop, known) if device.type == "cpu" or known else None
        for _ in range(params.warmup_passes):
            loop.step()
        enter(loop.step)
        runs = [_stretch(system, loop, params, progress)]
        while len(runs) < MOST_STRETCHES and again(runs[-1].start_s, runs[-1].end_s):
            loop.step()  # or copies that ran ahead meanwhile would be claimed and not counted
            runs.append(_stretch(system, loop, params, progress))
        memory.look()
        beside = memory.beside_bytes()
        time.sleep(_REST_S if device.type == "cuda" else 0.0)
        leave()
    of_all: dict[str, Any] = {
        "predicted_bytes": system.predicted_bytes_per_pass(),
        "witnessed_bytes": _certainly_moved(witnessed, known, system) if witnessed and device.type == "cpu" else None,
        "peak_device_bytes": memory.peak_bytes,
        "host_growth_bytes": host.growth_bytes,
        "open_s": opened - began,
        "seen": compare_weights(known, witnessed) if known else None,
        "beside_bytes": beside,
    }
    return [replace(run, **of_all) for run in runs]


def _stretch(system: System, loop: _Loop, params: PcieParams, progress: Progress) -> DecodeRun:
    """Decode for `params.duration_s`; what is of the whole time is not known yet."""
    claimed = read_claim(system)
    start, ends, held = _decode(loop, params.duration_s, progress)
    claimed_after = read_claim(system)
    return DecodeRun(
        start_s=start,
        end_s=ends[-1],
        pass_ends_s=tuple(ends),
        predicted_bytes=None,
        claimed_bytes=None if claimed is None or claimed_after is None else claimed_after - claimed,
        witnessed_bytes=None,
        peak_device_bytes=None,
        host_growth_bytes=None,
        open_s=0.0,
        timeline=tuple(getattr(system, "timeline", list)()),
        held_bytes=int(statistics.median(held)) if held else None,
    )


def _decode(loop: _Loop, duration_s: float, progress: Progress) -> tuple[float, list[float], list[int]]:
    """Decode for so long; return when that began, when each pass ended, and what the allocator had given out then."""
    ends: list[float] = []
    held: list[int] = []
    start = told = time.monotonic()
    while not ends or ends[-1] - start < duration_s:
        loop.step()
        ends.append(time.monotonic())
        if loop.device.type == "cuda":
            held.append(torch.cuda.memory_allocated(loop.device))
        if ends[-1] - told > 0.5:
            told = ends[-1]
            progress("decode", told - start, duration_s)
    return start, ends, held


def _witness(loop: _Loop, known: KnownWeights | None) -> WeightEvidence | None:
    """Watch one pass. Weights that no module owns, as those that are decoded for a call, are seen if they are known."""
    with WeightWitness(known.as_used() if known else None) as witness:
        loop.step()
    return witness.evidence()


def _certainly_moved(seen: WeightEvidence, known: KnownWeights | None, system: System) -> int | None:
    """Return the bytes that were certainly written; None if what was not seen would decide, for it may have been.

    Experts that a token is not routed to may be old, unless their bytes are known; that excuses nobody who held more
    than the budget.
    """
    compared = compare_weights(known, seen) if known else None
    is_whole = compared is not None and not compared.missing
    unrouted = 0 if is_whole or seen.distinct_bytes_at_least > system.budget_bytes else system.model.unrouted_bytes
    needed = system.model.weight_bytes - system.budget_bytes
    moved = max(0, seen.moved_bytes_lower_bound - unrouted)
    unseen = system.model.weight_bytes - seen.used_bytes + unrouted
    return None if moved < needed <= moved + unseen else moved


class _Loop:
    """Greedy decoding, with a KV cache that starts anew when it is full."""

    def __init__(self, model: Any, device: torch.device, context_tokens: int) -> None:
        self._model = model
        self.device = device
        self._context_tokens = context_tokens
        self._cache: dict[str, Any] = {}
        self._held = 0
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Decode one token and wait for it."""
        if self._held >= self._context_tokens:
            self._cache, self._held = {}, 0
        answer = read_answer(ask(self._model, self._token, **self._cache), needs_cache=False)
        self._cache, self._held = answer.carried, self._held + 1
        if not self._cache:
            raise ModelUnsupportedError(
                "decode loop: the model keeps no cache, so there is nothing to decode with; its output has none of "
                + ", ".join(CACHE_NAMES)
            )
        self._token = answer.logits[:, -1:].argmax(-1)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
