"""Evidence of a stream in place or encoded in which one thing is wrong, in a dose; `streams.py` has honest ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.faults.pcie.streams import (
    DURATION_S,
    ENCODED_PASS_BYTES,
    ENCODED_PASSES,
    IN_PLACE_PASSES,
    SEEN,
    make_encoding,
    make_in_place,
    make_stream,
    with_run,
)
from djinn_checks.faults.pcie.traffic import (
    BUDGET_BYTES,
    CEILING,
    COPIES,
    END_S,
    FEW_WORDS,
    FULL_RATE,
    IN_PLACE,
    MODEL_BYTES,
    PASS_BYTES,
    PASSES,
    START_S,
    make_evidence,
    make_health,
    make_series,
)
from djinn_checks.instruments.counters import WRAP, build_series
from djinn_checks.instruments.payload import ANSWER_BYTES

_ELSE_BYTES = 3 * 10**8
"""KV cache and buffers on the device beside weights."""
_LAYERS = 32


def keeps_part_of_encoded(share: float) -> PcieEvidence:
    """Have a coder keep this share of what it should send on the device, and claim a better ratio for the rest."""
    sent = 1 - share
    passes = int(ENCODED_PASSES / sent)
    return make_encoding(passes=passes, pass_bytes=int(FULL_RATE * DURATION_S / passes))


def decodes_from_second_copy(share: float) -> PcieEvidence:
    """Have a coder decode from a copy of this share that lies on the device, while as many bytes go by on the link."""
    return make_encoding(held_bytes=BUDGET_BYTES + _ELSE_BYTES + int(share * ENCODED_PASS_BYTES))


def skips_layers(layers: float) -> PcieEvidence:
    """Have a system leave out so many layers of 32, and say that it encodes: the rest has as many bytes as a code."""
    names = tuple(f"model.layers.{number}.mlp.up_proj.weight" for number in range(int(layers)))
    used = int(MODEL_BYTES * (1 - layers / _LAYERS))
    return make_encoding(seen=replace(SEEN, exact_bytes=used, written_bytes=used, missing=names))


def reads_junk_beside_a_copy(share: float) -> PcieEvidence:
    """Have this share of the weights resident, and read as many junk bytes in place as streaming them would."""
    return with_run(make_in_place(), held_bytes=max(BUDGET_BYTES, int(share * MODEL_BYTES)) + _ELSE_BYTES)


def skips_every_other_pass(share: float) -> PcieEvidence:
    """Use half of the link, and leave this share of every second pass to the ones between."""
    rate, pass_s, pass_bytes = FULL_RATE / 2, DURATION_S / PASSES, PASS_BYTES // 2

    def came(t: float) -> float:
        return rate * (1 - share if int((t - START_S) / pass_s) % 2 else 1 + share) if t < END_S else 0.0

    found = replace(make_evidence(make_series(came)), weight_bytes=BUDGET_BYTES + pass_bytes)
    moved = pass_bytes * PASSES
    return replace(with_run(found, predicted_bytes=pass_bytes, claimed_bytes=moved), claimed_bytes=moved)


def reads_few_words_and_sends_junk(share: float) -> PcieEvidence:
    """Fill the wire with requests for few words, claim what copies would have brought, and send this share back."""
    wire = FULL_RATE * (COPIES + ANSWER_BYTES) / COPIES
    read = wire * FEW_WORDS / (FEW_WORDS + ANSWER_BYTES)
    return make_evidence(make_series(read, request_bytes=FEW_WORDS, sent_data=share * CEILING))


def wastes(share: float) -> PcieEvidence:
    """Read in place with this share of the bytes unused, and claim them all."""
    pass_bytes = int(PASS_BYTES / (1 - share))
    passes = max(1, int(IN_PLACE_PASSES * PASS_BYTES / pass_bytes))
    return make_stream(passes=passes, pass_bytes=pass_bytes, request_bytes=IN_PLACE)


def loses_sent(share: float) -> PcieEvidence:
    """Have the counter of sent bytes miss this share of them, while that of received ones is right."""
    whole = make_series()
    tx = ((1 - share) * whole.tx_bytes).astype(np.int64) % WRAP
    return make_evidence(build_series(whole.t_s, whole.t_s, whole.raw.rx, tx, source="made to measure"))


def trains_down(share: float) -> PcieEvidence:
    """Have the link at generation 3 in place of 5, and at a quarter of its rate, for the last share of the run."""
    at = END_S - share * (END_S - START_S)
    found = make_evidence(make_series(lambda t: FULL_RATE if t < at else 0.25 * CEILING))
    health = make_health(generation=lambda t: 5 if t < at else 3)
    moved = int(((1 - share) * FULL_RATE + share * 0.25 * CEILING) * DURATION_S)
    return replace(found, link=replace(found.link, health=health), claimed_bytes=moved)


def sends_again(replays_per_s: float) -> PcieEvidence:
    """Have the link send so many packets a second again."""
    found = make_evidence()
    return replace(found, link=replace(found.link, health=make_health(replays_per_s=replays_per_s)))
