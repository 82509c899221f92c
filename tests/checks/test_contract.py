"""A system that gives back what cannot be called is told so by name, before the resident model runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from djinn_checks.checks.contract import is_rehearsed, rehearse, vet_opened
from djinn_checks.checks.logits.check import check_logits
from djinn_checks.errors import NoWeightError, SystemContractError
from djinn_checks.models.weight_names import NamedWeights
from djinn_checks.outcome import Status
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System
from djinn_checks.systems.ring import RingSystem


class Forgets(System):
    name = "forgets"

    def open(self) -> Any:
        self.model.skeleton()

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("opened", "says"),
    [
        (None, "None; .* is a `return` missing"),
        ({"a": torch.zeros(1)}, "a dict of 1 weights"),
        ("model", "str, which cannot be called"),
        (nn.Module(), "a Module without a forward"),
    ],
    ids=["nothing", "weights", "text", "no forward"],
)
def test_what_cannot_be_called_is_named(opened: Any, says: str) -> None:
    with pytest.raises(SystemContractError, match=f"system 'mine': open\\(\\) returned {says}"):
        vet_opened(opened, "mine")


def test_a_module_and_a_function_can_be_called_whatever_they_hold() -> None:
    for opened in (nn.Linear(2, 2), nn.Identity(), len):
        assert vet_opened(opened, "mine") is opened


def test_a_wrong_system_is_an_error_before_the_reference_runs() -> None:
    stages: list[str] = []
    params = LogitsParams(model="random:tiny", system="forgets", device="cpu", prompts=1)
    outcome = check_logits(params, system_factory=Forgets, progress=lambda stage, *_: stages.append(stage))
    assert outcome.status is Status.ERROR
    assert "system 'forgets': open() returned None" in outcome.summary
    assert stages == ["opening the system"]


def test_large_models_and_systems_that_come_along_are_opened_once() -> None:
    ours, theirs = (object.__new__(kind) for kind in (RingSystem, Forgets))
    assert not is_rehearsed(ours, 1)
    assert is_rehearsed(theirs, 10**9)
    assert not is_rehearsed(theirs, 10**11)


def test_a_rehearsal_closes_what_it_opened_even_if_it_fails() -> None:
    closed: list[bool] = []

    class Closes(Forgets):
        def close(self) -> None:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        rehearse(lambda: object.__new__(Closes), lambda system: 1 // 0, torch.device("cpu"))
    assert closed == [True]


def test_a_weight_asked_for_by_another_name_is_told_where_it_is() -> None:
    weights = NamedWeights({"embed.weight": torch.ones(1)}, {"lm_head.weight": "embed.weight"})
    assert list(weights) == ["embed.weight"]
    assert "lm_head.weight" not in weights
    with pytest.raises(NoWeightError, match=r"^weight 'lm_head.weight' is tied to 'embed.weight', and kept under that"):
        weights["lm_head.weight"]
    with pytest.raises(KeyError, match="did you mean 'embed.weight'"):
        weights["embed.wieght"]
