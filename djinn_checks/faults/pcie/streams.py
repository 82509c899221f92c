"""Evidence of streams of other kinds than copies, made to measure: kernels that read in place, and encoded layers.

Both are honest as they stand here; what is wrong with them is planted in `stream_defects.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from djinn_checks.checks.pcie.decode_run import SeenWeights
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.pcie.traffic import (
    BUDGET_BYTES,
    COPIES,
    END_S,
    FULL_RATE,
    IN_PLACE,
    MODEL_BYTES,
    PASS_BYTES,
    START_S,
    make_evidence,
    make_noisy_link,
    make_series,
)
from djinn_checks.instruments.entropy_floor import EntropyFloor

DURATION_S = END_S - START_S
IN_PLACE_PASSES = 56
"""What a full wire brings of the same weights, of which requests for 128 bytes take 7 % more."""
ENCODED_PASSES = 100
ENCODED_PASS_BYTES = int(FULL_RATE * DURATION_S / ENCODED_PASSES)
"""6 GB: of 13 GB of bfloat16 weights, coded to 0.661 of their bytes, less 2.6 GB that lie encoded in the budget."""
FLOOR = EntropyFloor(
    weight_bytes=MODEL_BYTES,
    least_bytes=0.654 * MODEL_BYTES,
    error_bytes=0.0003 * MODEL_BYTES,
    share_of_field={"sign": 0.0625, "exponent": 0.159, "mantissa": 0.436},
)
SEEN = SeenWeights(known_bytes=MODEL_BYTES, exact_bytes=MODEL_BYTES, written_bytes=MODEL_BYTES - 8 * 10**8, missing=())
_LONG_GAP_READINGS = 20
"""NVML keeps readings so many milliseconds waiting now and then while kernels read in place (23 on an H200)."""


def make_stream(
    *, passes: int, pass_bytes: int, request_bytes: int = COPIES, seed: int | None = None, **changed: Any
) -> PcieEvidence:
    """Return the evidence of passes that move so many bytes each, truly planned and claimed, at an even rate.

    Args:
        seed: of noise in time, rate and claim, as a real run has; None: without any.
        changed: fields of the evidence in place of these.
    """
    mean = passes * pass_bytes / DURATION_S
    claimed = passes * pass_bytes
    if seed is None:
        found = make_evidence(make_series(mean, request_bytes=request_bytes), claimed_bytes=claimed)
    else:
        found = _make_noisy(mean, request_bytes, claimed, np.random.default_rng(seed), seed)
    ends = tuple(START_S + DURATION_S / passes * (number + 1) for number in range(passes))
    found = with_run(
        found, pass_ends_s=ends, predicted_bytes=pass_bytes, claimed_bytes=claimed, host_growth_bytes=pass_bytes
    )
    return replace(found, **changed)


def _make_noisy(mean: float, request_bytes: int, claimed: int, chance: np.random.Generator, seed: int) -> PcieEvidence:
    times = np.arange(START_S - 2, END_S + 2, 0.001)
    uneven = mean * (1 + 0.02 * chance.uniform(-1, 1, len(times)))
    rates = dict(zip(times.tolist(), uneven.tolist(), strict=True))
    kept = np.ones(len(times), dtype=np.bool_)
    longest = _LONG_GAP_READINGS if request_bytes < COPIES else 4
    for number in np.flatnonzero(chance.random(len(times)) < 5e-4):
        kept[number + 1 : number + int(chance.integers(2, longest))] = False
    series = make_series(
        lambda t: rates.get(float(t), mean), request_bytes=request_bytes, keep=lambda _: kept, jitter_s=2e-4, seed=seed
    )
    claimed = int(claimed * (1 + 0.001 * chance.uniform(-1, 1)))
    return make_evidence(series, claimed_bytes=claimed, link=make_noisy_link(chance))


def make_in_place(seed: int | None = None) -> PcieEvidence:
    """Return the evidence of kernels that read pinned weights where they lie, on a full wire."""
    return make_stream(passes=IN_PLACE_PASSES, pass_bytes=PASS_BYTES, request_bytes=IN_PLACE, seed=seed)


def make_encoding(
    seed: int | None = None,
    *,
    passes: int = ENCODED_PASSES,
    pass_bytes: int = ENCODED_PASS_BYTES,
    seen: SeenWeights | None = SEEN,
    held_bytes: int = BUDGET_BYTES + 3 * 10**8,
) -> PcieEvidence:
    """Return the evidence of layers that travel encoded, are decoded bit for bit, and lie encoded in the budget."""
    found = make_stream(passes=passes, pass_bytes=pass_bytes, seed=seed, encodes=True, floor=FLOOR)
    return with_run(found, seen=seen, held_bytes=held_bytes)


def with_run(found: PcieEvidence, **changed: Any) -> PcieEvidence:
    """Return evidence whose run has these fields changed."""
    return found if found.run is None else replace(found, run=replace(found.run, **changed))
