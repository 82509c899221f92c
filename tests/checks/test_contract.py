"""A system that gives back what cannot be called is told so by name, before the resident model runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from djinn_checks.checks.contract import ask, read_answer, read_claim, vet_opened
from djinn_checks.checks.logits.check import check_logits
from djinn_checks.checks.refusals import open_system
from djinn_checks.errors import NoWeightError, SystemContractError
from djinn_checks.models.weight_names import NamedWeights
from djinn_checks.outcome import Status
from djinn_checks.params import LogitsParams
from djinn_checks.systems.base import System


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


LOGITS = torch.zeros(1, 3, 7)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "a forward returned NoneType; expected an object with .logits"),
        ((LOGITS, ()), "a forward returned tuple; expected an object with .logits"),
        (LOGITS, "a forward returned Tensor; expected an object with .logits"),
        (SimpleNamespace(logits=LOGITS.numpy()), "a forward returned logits of type ndarray; expected"),
        (SimpleNamespace(logits=LOGITS[0]), r"a forward returned logits \[3, 7\]; expected .* \[1, T, V\]"),
        (SimpleNamespace(logits=LOGITS), "a forward returned no cache, .*; expected one of past_key_values"),
    ],
    ids=["nothing", "tuple", "tensor", "numpy", "two dimensions", "no cache"],
)
def test_an_answer_that_is_none_is_named(answer: Any, says: str) -> None:
    with pytest.raises(SystemContractError, match=says):
        read_answer(answer, needs_cache=True)


def test_logits_on_meta_have_no_values() -> None:
    with pytest.raises(SystemContractError, match="logits on 'meta', which have no values"):
        read_answer(SimpleNamespace(logits=LOGITS.to("meta")), needs_cache=False)


def test_weights_that_were_never_put_in_their_places_are_named() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3).to("meta"))
    forward = module.forward
    module.forward = lambda ids, use_cache: forward(ids) @ module[1].weight.sum()  # type: ignore[method-assign]
    with pytest.raises(SystemContractError, match=r"there are still 1\.weight, 1\.bias: put each in its place"):
        ask(module, torch.zeros(2, 3))


def test_a_model_that_does_not_know_how_it_is_called_is_told() -> None:
    with pytest.raises(SystemContractError, match=r"called as model\(ids, use_cache=True\).*unexpected keyword"):
        ask(lambda ids: ids, torch.zeros(1, 3))


def test_an_answer_with_logits_and_a_cache_is_let_be() -> None:
    cache = object()
    answer = read_answer(SimpleNamespace(logits=LOGITS, past_key_values=cache), needs_cache=True)
    assert torch.equal(answer.logits, LOGITS)
    assert answer.carried == {"past_key_values": cache}
    assert not read_answer(SimpleNamespace(logits=LOGITS), needs_cache=False).carried


class AlwaysEqual(torch.Tensor):
    """Says yes to everything."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return True if func is torch.equal else super().__torch_function__(func, types, args, kwargs or {})


class OwnOperators(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_what_a_class_says_of_its_logits_has_no_say() -> None:
    yes = LOGITS.as_subclass(AlwaysEqual)
    assert torch.equal(yes, LOGITS + 1)
    read = read_answer(SimpleNamespace(logits=yes), needs_cache=False).logits
    assert type(read) is torch.Tensor
    assert not torch.equal(read, LOGITS + 1)
    with pytest.raises(SystemContractError, match="OwnOperators, which compares and copies itself"):
        read_answer(SimpleNamespace(logits=LOGITS.as_subclass(OwnOperators)), needs_cache=False)


class Claims(Forgets):
    said: Any = None

    def claimed_bytes(self) -> Any:
        return self.said


@pytest.mark.parametrize(("said", "read"), [(None, None), (7, 7), (7.0, 7), (np.int64(7), 7), (torch.tensor(7), 7)])
def test_whole_numbers_of_bytes_are_claims(said: Any, read: int | None) -> None:
    system = Claims(None, device=torch.device("cpu"), budget_bytes=1)  # type: ignore[arg-type]
    system.said = said
    assert read_claim(system) == read


@pytest.mark.parametrize("said", ["7 bytes", 7.5, [7]])
def test_other_claims_are_named(said: Any) -> None:
    system = Claims(None, device=torch.device("cpu"), budget_bytes=1)  # type: ignore[arg-type]
    system.said = said
    with pytest.raises(SystemContractError, match=r"'forgets': claimed_bytes\(\) returned .* expected bytes as an int"):
        read_claim(system)


def test_a_system_without_a_name_or_what_it_was_built_with_is_told_what_to_call() -> None:
    class Nameless(Forgets):
        def __init__(self, model: Any, *, device: torch.device, budget_bytes: int) -> None:
            """Keep nothing."""

    with pytest.raises(SystemContractError, match=r"'forgets': it has no model, device, budget_bytes; call super"):
        open_system(Nameless(None, device=torch.device("cpu"), budget_bytes=1))


def test_a_system_that_was_not_built_is_an_error_before_the_reference_runs() -> None:
    class Unbuilt(Forgets):
        def __init__(self, model: Any, *, device: torch.device, budget_bytes: int) -> None:
            """Keep nothing."""

    stages: list[str] = []
    params = LogitsParams(model="random:tiny", system="forgets", device="cpu", prompts=1)
    outcome = check_logits(params, system_factory=Unbuilt, progress=lambda stage, *_: stages.append(stage))
    assert outcome.status is Status.ERROR
    assert "'forgets': it has no model, device, budget_bytes" in outcome.summary
    assert not stages


def test_a_system_is_built_and_opened_once_and_what_it_forgets_is_told() -> None:
    made: list[str] = []

    class Counts(Forgets):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append("built")

        def open(self) -> Any:
            made.append("opened")

    params = LogitsParams(model="random:tiny", system="forgets", device="cpu", prompts=1)
    outcome = check_logits(params, system_factory=Counts)
    assert "system 'forgets': open() returned None" in outcome.summary
    assert made == ["built", "opened"]


class Attributes(dict[str, Any]):
    """Gives its entries as attributes."""

    __getattr__ = dict.__getitem__


def test_a_dictionary_of_attributes_is_read_as_one() -> None:
    answer = read_answer(Attributes(logits=LOGITS, state=[7]), needs_cache=True)
    assert answer.carried == {"state": [7]}


def test_a_weight_asked_for_by_another_name_is_told_where_it_is() -> None:
    weights = NamedWeights({"embed.weight": torch.ones(1)}, {"lm_head.weight": "embed.weight"})
    assert list(weights) == ["embed.weight"]
    assert "lm_head.weight" not in weights
    with pytest.raises(NoWeightError, match=r"^weight 'lm_head.weight' is tied to 'embed.weight', and kept under that"):
        weights["lm_head.weight"]
    with pytest.raises(KeyError, match="did you mean 'embed.weight'"):
        weights["embed.wieght"]
