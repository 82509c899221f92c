"""A system that encodes is held to its own weights' entropy, and to weights that a pass was seen to use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_checks.checks import run as checks_run
from djinn_checks.checks.pcie import one_gpu
from djinn_checks.checks.pcie.check import check_pcie
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.decode_loop import decode_stretches
from djinn_checks.checks.pcie.decode_run import DecodeRun
from djinn_checks.checks.pcie.weights import compare_weights, survey_weights
from djinn_checks.checks.settle import no_progress
from djinn_checks.faults.pcie.streams import make_encoding
from djinn_checks.instruments.link_ceiling import measure_ceiling
from djinn_checks.instruments.weight_witness import WeightWitness
from djinn_checks.outcome import Status
from djinn_checks.params import PcieParams
from djinn_checks.units import MIB
from tests.fakes import StreamingFake, TinyModel

CPU = torch.device("cpu")


class Encodes(StreamingFake):
    """Says that its blocks travel encoded; here they are decoded by being copied."""

    name = "encodes"
    encodes = True


class DecodesForEachCall(Encodes):
    """Linear layers multiply with a tensor that is decoded for the call and that no module owns."""

    def open(self) -> Any:
        module = super().open()
        for index, block in enumerate(self.blocks):
            for name, leaf in block.named_modules():
                if isinstance(leaf, nn.Linear):
                    code = self.host[index].pop(f"{name}.weight")
                    leaf._parameters.pop("weight")
                    leaf.forward = lambda x, code=code: nn.functional.linear(x, code.clone())  # type: ignore[method-assign]
        return module


class LeavesOut(Encodes):
    """Leaves out two blocks of six, and says that the rest is a code."""

    def open(self) -> Any:
        module = super().open()
        for index in (2, 3):
            module.model.layers[index].forward = lambda hidden, *_, **__: hidden
        return module


class DecodesWrong(Encodes):
    """One number of one weight comes out of the code wrong."""

    def after_fill(self, index: int, name: str, place: Tensor) -> None:
        if index == 2 and name == "mlp.up_proj.weight":
            place[3, 5] += 1


def decode(system: type[Encodes]) -> DecodeRun:
    model: Any = TinyModel()
    params = PcieParams.create(device="cpu", dtype="float32", duration_s=1.0, warmup_passes=1, budget_gb=1.0)
    known = survey_weights(model, CPU)
    return decode_stretches(system(model, device=CPU, budget_bytes=0), params, CPU, no_progress, known=known)[0]


@pytest.mark.parametrize("system", [Encodes, DecodesForEachCall])
def test_a_system_that_encodes_is_seen_to_use_every_weight(
    system: type[Encodes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_gpu, "open_model", lambda spec, *, dtype, device, seed: TinyModel(dtype, seed))
    monkeypatch.setattr(one_gpu, "measure_ceiling", lambda device, **_: measure_ceiling(device, nbytes=MIB, samples=2))
    monkeypatch.setattr(checks_run, "read_environment", lambda device, system="": {"device": str(device)})
    values = {"device": "cpu", "dtype": "float32", "duration_s": 1.0, "sweep": False, "budget_fraction": 0.7}
    outcome = check_pcie(PcieParams.create(**values), system_factory=system)
    assert outcome.failure is None, outcome.failure
    assert outcome.criterion("weights_decoded").status is Status.PASS
    floor = outcome.measurements["floor"]
    assert 0.3 < floor["least_bytes"] / floor["weight_bytes"] < 0.9
    assert outcome.measurements["figures"]["weights_of_ceiling"] > 0


@pytest.mark.parametrize("system", [LeavesOut, DecodesWrong])
def test_weights_that_are_left_out_or_come_out_wrong_are_not_proved(system: type[Encodes]) -> None:
    found = replace(make_encoding(), run=decode(system))
    row = next(row for row in judge_evidence(found) if row.name == "weights_decoded")
    assert row.status is Status.INCONCLUSIVE
    assert row.required
    assert "model.layers.2" in row.reason
    assert found.weight_rate_of_ceiling is None


def test_equal_weights_count_once() -> None:
    model: Any = TinyModel()
    known = survey_weights(model, CPU)
    module = model.resident(CPU)
    with WeightWitness() as witness, torch.no_grad():
        module(torch.zeros(1, 1, dtype=torch.int64))
    seen = compare_weights(known, witness.evidence())
    assert seen is not None
    assert seen.missing == ()
    assert seen.exact_bytes == seen.known_bytes == known.floor.weight_bytes
    assert seen.written_bytes == 0, "all lay there, and nothing was written"
    assert compare_weights(known, None) is None
