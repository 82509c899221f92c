"""What somebody else replaced is no code of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP

from djinn_checks.errors import ModelUnsupportedError
from djinn_checks.models.open import open_model
from djinn_checks.models.own_code import OwnCode, refuse_foreign

REPLACED: Any = ((LlamaMLP, "forward"), (modeling_llama, "rotate_half"), (nn.functional, "silu"))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu")).skeleton()


@pytest.fixture(autouse=True)
def _everything_back() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place, name in REPLACED:
            patch.setattr(place, name, getattr(place, name))
        yield


def half(module: Any, hidden: Tensor) -> Tensor:
    return hidden / 2


def quarter(module: Any, hidden: Tensor) -> Tensor:
    return hidden / 4


def test_a_model_as_its_library_made_it_is_its_own(model: nn.Module) -> None:
    refuse_foreign(model)


@pytest.mark.parametrize(
    ("place", "name"), [(LlamaMLP, "forward"), (modeling_llama, "rotate_half"), (nn.functional, "silu")]
)
def test_what_is_replaced_is_told_and_taken_back_for_a_while(place: Any, name: str, model: nn.Module) -> None:
    original, own = vars(place)[name], OwnCode(model)
    setattr(place, name, half)
    with pytest.raises(ModelUnsupportedError, match=rf"would run \S*{name} of tests.models.test_own_code"):
        refuse_foreign(model)
    with own.restored():
        assert vars(place)[name] is original
        refuse_foreign(model)
    assert vars(place)[name] is half


def test_a_method_that_a_class_got_since_is_taken_away_for_a_while(model: nn.Module) -> None:
    own = OwnCode(model)
    LlamaMLP.__call__ = half
    try:
        with own.restored():
            assert "__call__" not in vars(LlamaMLP)
        assert LlamaMLP.__call__ is half
    finally:
        del LlamaMLP.__call__


@pytest.mark.parametrize("again", [False, True])
def test_what_a_rehearsal_leaves_is_there_once(again: bool, model: nn.Module) -> None:
    original, own = LlamaMLP.forward, OwnCode(model)
    with own.rehearsed():
        LlamaMLP.forward = half
    assert LlamaMLP.forward is original
    if again:
        LlamaMLP.forward = quarter
    own.put_in_again()
    assert LlamaMLP.forward is (quarter if again else half)
