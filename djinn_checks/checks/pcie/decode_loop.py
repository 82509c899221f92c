"""A system under load: a decode loop at batch 1, token after token, for as long as the check measures.

The host waits for the computation of each token, as every `generate()` does to know whether to go on, and
never for the device as a whole: that would also wait for copies that run ahead for the next token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from djinn_checks.checks.pcie.weights import KnownWeights, SeenWeights, compare_weights
from djinn_checks.checks.run import Progress
from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.memory import HostGrowth, PeakMemory
from djinn_checks.instruments.weight_witness import WeightEvidence, WeightWitness
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import System


@dataclass(frozen=True, kw_only=True)
class DecodeRun:
    """What was seen of a system under load. Instants are seconds on CLOCK_MONOTONIC."""

    start_s: float
    end_s: float
    pass_ends_s: tuple[float, ...]
    predicted_bytes: int | None
    """Bytes per pass, by the system's plan."""
    claimed_bytes: int | None
    """Bytes that the system claims for the time from start to end."""
    witnessed_bytes: int | None
    """Bytes that were certainly written in one pass before the start (weight witness). None if nothing was seen,
    and on a GPU, where the counters see the link itself."""
    peak_device_bytes: int | None
    """Most device memory that was reserved or taken; None on a CPU."""
    host_growth_bytes: int | None
    """How far the process's resident memory grew beyond what it was before the system opened."""
    open_s: float
    timeline: tuple[dict[str, Any], ...]
    """The system's own account of its last copies and computations; empty if it keeps none."""
    seen: SeenWeights | None = None
    """Of a system that encodes, the weights that one pass before the start was seen to use; None if none was seen."""
    running_bytes: int | None = None
    """Most device memory that PyTorch's allocator gave out while passes were measured; None on a CPU."""
    beside_bytes: int | None = None
    """Device memory that was taken beside the allocator since before the system opened, whoever took it."""

    @property
    def seconds_per_pass(self) -> float:
        """Mean over the run."""
        return (self.end_s - self.start_s) / len(self.pass_ends_s)


def run_decode_loop(
    system: System,
    params: PcieParams,
    device: torch.device,
    progress: Progress,
    *,
    known: KnownWeights | None = None,
) -> DecodeRun:
    """Open the system, warm it up, and decode for `params.duration_s`; at least one pass.

    Args:
        progress: called about twice a second, in seconds.
        known: the weights that are looked for in one pass before the start; None: they are not.

    Raises:
        InstrumentError: the system's model keeps no KV cache, so there is nothing to decode with.
    """
    with HostGrowth() as host, PeakMemory(device, whole_device=True) as memory, system:
        began = time.monotonic()
        model = system.open()
        loop = _Loop(model, device, params.context_tokens)
        opened = time.monotonic()
        witnessed = _witness(loop) if device.type == "cpu" or known else None
        for _ in range(params.warmup_passes):
            loop.step()
        memory.count_anew()
        claimed = system.claimed_bytes()
        ends: list[float] = []
        start = told = time.monotonic()
        while not ends or ends[-1] - start < params.duration_s:
            loop.step()
            ends.append(time.monotonic())
            if ends[-1] - told > 0.5:
                told = ends[-1]
                progress("decode", told - start, params.duration_s)
        claimed_after = system.claimed_bytes()
        memory.look()
        running = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        beside = memory.beside_bytes()
        timeline: list[dict[str, Any]] = getattr(system, "timeline", list)()
    return DecodeRun(
        start_s=start,
        end_s=ends[-1],
        pass_ends_s=tuple(ends),
        predicted_bytes=system.predicted_bytes_per_pass(),
        claimed_bytes=None if claimed is None or claimed_after is None else claimed_after - claimed,
        witnessed_bytes=witnessed.moved_bytes_lower_bound if witnessed and device.type == "cpu" else None,
        peak_device_bytes=memory.peak_bytes,
        host_growth_bytes=host.growth_bytes,
        open_s=opened - began,
        timeline=tuple(timeline),
        seen=compare_weights(known, witnessed) if known else None,
        running_bytes=running,
        beside_bytes=beside,
    )


def _witness(loop: _Loop) -> WeightEvidence | None:
    with WeightWitness() as witness:
        loop.step()
    return witness.evidence()


class _Loop:
    """Greedy decoding, with a KV cache that starts anew when it is full."""

    def __init__(self, model: Any, device: torch.device, context_tokens: int) -> None:
        self._model = model
        self._device = device
        self._context_tokens = context_tokens
        self._cache: Any = None
        self._held = 0
        self._token = torch.zeros(1, 1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def step(self) -> None:
        """Decode one token and wait for it."""
        if self._held >= self._context_tokens:
            self._cache, self._held = None, 0
        output = self._model(self._token, past_key_values=self._cache, use_cache=True)
        if output.past_key_values is None:
            raise InstrumentError("decode loop: the model gives no KV cache back (past_key_values is None)")
        self._cache, self._held = output.past_key_values, self._held + 1
        self._token = output.logits[:, -1:].argmax(-1)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
