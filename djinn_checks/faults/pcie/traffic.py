"""Evidence of a PCIe run made to measure: counters over a link whose traffic is known to the byte.

It lets the criteria be tried without a GPU, on a run in which everything is right but for what a caller changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.checks.pcie.evidence import PCIE, LinkFacts, PcieEvidence
from djinn_checks.instruments.calibration import Calibration
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.instruments.counters import WRAP, CounterSeries, Floats, Integers, build_series
from djinn_checks.instruments.link_health import ERRORS, HealthSample, LinkHealth
from djinn_checks.instruments.payload import ANSWER_BYTES, REQUEST_BYTES, RulerWeight
from djinn_checks.params import PcieParams

CEILING = 50e9
"""Payload, bytes/s."""
COPIES, IN_PLACE, FEW_WORDS = 256, 128, 32
"""Bytes that a request asks for: by readers of each kind."""
WIRE_PER_PAYLOAD = (COPIES + ANSWER_BYTES) / COPIES
START_S, END_S = 1000.0, 1012.0
PASSES = 60
MODEL_BYTES, BUDGET_BYTES = 13_000_000_000, 3_000_000_000
PASS_BYTES = 9_950_000_000
"""More than the model less the budget, and what 0.995 of the ceiling carries in a fifth of a second."""
CLAIMED_BYTES = PASS_BYTES * PASSES
FULL_RATE = 0.995 * CEILING

_BEFORE_S, _AFTER_S = (START_S - 1.9, START_S - 1.1), (END_S + 0.6, END_S + 1.4)
READING = RulerWeight(rx_bytes=16_500.0, tx_bytes=22_400.0)
"""What each reading moves itself, as on an H200."""


def make_series(
    rate: float | Callable[[float], float] = FULL_RATE,
    *,
    end_s: float = END_S + 2,
    keep: Callable[[Floats], Any] | None = None,
    jitter_s: float = 0.0,
    seed: int = 0,
    request_bytes: int = COPIES,
    sent_data: float = 0.0,
) -> CounterSeries:
    """Return readings a millisecond apart, from two seconds before the run to two seconds after it.

    Args:
        rate: payload received during the run, bytes/s; a number or a function of time.
        end_s: when the readings stop.
        keep: which readings are kept, as a mask over their times.
        jitter_s: how far a reading may be early or late, at random by `seed`; less than half a millisecond.
        request_bytes: how the system reads host memory.
        sent_data: data sent to the host during the run, bytes/s.
    """
    times = np.arange(START_S - 2, end_s, 0.001)
    even = times
    if jitter_s:
        times = times + np.random.default_rng(seed).uniform(-jitter_s, jitter_s, len(times))
    running = np.array([rate(t) if callable(rate) else rate for t in even[:-1]])
    measuring = ((times < START_S - 1) | (times > END_S + 0.5))[:-1]
    payload = np.where(measuring, CEILING, running) * np.diff(times)
    size = np.where(measuring, COPIES, request_bytes)
    back = np.where(measuring, 0.0, sent_data) * np.diff(times)
    rx = _sum(payload * (size + ANSWER_BYTES) / size + READING.rx_bytes)
    tx = _sum((payload / size + back / COPIES) * REQUEST_BYTES + back + READING.tx_bytes)
    if keep is not None:
        kept = keep(times)
        times, rx, tx = times[kept], rx[kept], tx[kept]
    return build_series(times, times, rx % WRAP, tx % WRAP, source="made to measure")


def _sum(steps: Floats) -> Integers:
    return np.concatenate([[0], np.cumsum(steps).astype(np.int64)])


def make_noisy_evidence(seed: int) -> PcieEvidence:
    """Return the evidence of a full link as a real one is: nothing is wrong, and nothing is quite even.

    Readings come 0.2 ms early or late and 4 ms at the longest, the rate moves by a fiftieth from millisecond to
    millisecond, the ceiling by a hundredth between before and after, and the claim by a part in a thousand.
    """
    chance = np.random.default_rng(seed)
    times = np.arange(START_S - 2, END_S + 2, 0.001)
    uneven = FULL_RATE * (1 + 0.02 * chance.uniform(-1, 1, len(times)))
    rates = dict(zip(times.tolist(), uneven.tolist(), strict=True))
    late = np.flatnonzero(chance.random(len(times)) < 0.002)
    skipped = {int(first) + more for first in late for more in range(int(chance.integers(1, 4)))}
    kept = np.array([number not in skipped for number in range(len(times))])
    series = make_series(lambda t: rates.get(float(t), FULL_RATE), keep=lambda _: kept, jitter_s=2e-4, seed=seed)
    claimed = int(CLAIMED_BYTES * (1 + 0.001 * chance.uniform(-1, 1)))
    return make_evidence(series, claimed_bytes=claimed, link=make_noisy_link(chance))


def make_noisy_link(chance: np.random.Generator) -> LinkFacts:
    """Return a link whose ceiling, calibration and readings are a little off, as those of a real one are."""
    drift = 1 + 0.01 * chance.uniform(-1, 1)
    return LinkFacts(
        subject=PCIE,
        ceiling_bytes_per_s=CEILING * max(1.0, drift),
        ceilings=(make_ceiling(_BEFORE_S),),
        ceiling_after=make_ceiling(_AFTER_S, bytes_per_s=CEILING * drift),
        health=make_health(replays_per_s=float(chance.uniform(0, 0.5))),
        calibration=Calibration(
            wire_per_payload=WIRE_PER_PAYLOAD,
            idle_bytes_per_s=float(chance.uniform(0, 50e6)),
            residual=float(chance.uniform(0, 0.002)),
            payload_bytes=8 * 10**9,
            law_error=float(chance.uniform(0, 0.0008)),
            sent_of_received=REQUEST_BYTES / (COPIES + ANSWER_BYTES),
            ruler_rx_bytes=READING.rx_bytes * float(chance.uniform(0.95, 1.05)),
            ruler_tx_bytes=READING.tx_bytes * float(chance.uniform(0.95, 1.05)),
        ),
    )


def make_ceiling(span_s: tuple[float, float], **changed: Any) -> Ceiling:
    """Return a ceiling that was measured in `span_s`, with its copies and nothing else on the link."""
    values: dict[str, Any] = {
        "kind": "pcie",
        "direction": "h2d",
        "pinned": True,
        "nbytes": 2**29,
        "bytes_per_s": CEILING,
        "spread": 0.001,
        "samples_s": (0.01,),
        "verified": True,
        "start_s": span_s[0],
        "end_s": span_s[1],
        "copied_bytes": int(CEILING * (span_s[1] - span_s[0])),
    }
    return Ceiling(**(values | changed))


def make_health(
    *, generation: Callable[[float], int] = lambda t: 5, replays_per_s: float = 0.1, clock_reasons: int = 0
) -> LinkHealth:
    """Return the link's health, read once a second from two seconds before the run to two seconds after it."""
    seconds = np.arange(START_S - 2, END_S + 2.5).tolist()
    return LinkHealth(
        tuple(
            HealthSample(
                t_s=t_s,
                generation=generation(t_s),
                width=16,
                clock_reasons=clock_reasons,
                pins=0,
                counts=dict.fromkeys(ERRORS, 3) | {"replays": 799 + int(replays_per_s * (t_s - START_S + 2))},
            )
            for t_s in seconds
        )
    )


def make_evidence(series: CounterSeries | None = None, **changed: Any) -> PcieEvidence:
    """Return the evidence of a run in which everything holds; `changed` replaces fields of it."""
    run = DecodeRun(
        start_s=START_S,
        end_s=END_S,
        pass_ends_s=tuple(START_S + (END_S - START_S) / PASSES * (i + 1) for i in range(PASSES)),
        predicted_bytes=PASS_BYTES,
        claimed_bytes=CLAIMED_BYTES,
        witnessed_bytes=None,
        peak_device_bytes=4 * 10**9,
        host_growth_bytes=PASS_BYTES,
        open_s=1.0,
        timeline=(),
        held_bytes=BUDGET_BYTES + 3 * 10**8,
        beside_bytes=10**8,
    )
    link = LinkFacts(
        subject=PCIE,
        ceiling_bytes_per_s=CEILING,
        ceilings=(make_ceiling(_BEFORE_S),),
        ceiling_after=make_ceiling(_AFTER_S),
        health=make_health(),
        calibration=Calibration(
            wire_per_payload=WIRE_PER_PAYLOAD,
            idle_bytes_per_s=16e6,
            residual=0.0001,
            payload_bytes=8 * 10**9,
            law_error=0.0001,
            sent_of_received=REQUEST_BYTES / (COPIES + ANSWER_BYTES),
            ruler_rx_bytes=READING.rx_bytes,
            ruler_tx_bytes=READING.tx_bytes,
        ),
    )
    values: dict[str, Any] = {
        "params": PcieParams.create(),
        "link": link,
        "series": changed.get("link", link).fit(series or make_series()),
        "start_s": START_S,
        "end_s": END_S,
        "claimed_bytes": CLAIMED_BYTES,
        "run": run,
        "weight_bytes": MODEL_BYTES,
        "budget_bytes": BUDGET_BYTES,
    }
    return PcieEvidence(**(values | changed))
