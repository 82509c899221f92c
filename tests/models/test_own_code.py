"""What somebody else replaced is no code of the reference."""

from __future__ import annotations

import cProfile
import functools
import pstats
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from djinn_checks.errors import ModelUnsupportedError
from djinn_checks.models.open import open_model
from djinn_checks.models.own_code import OwnCode, refuse_foreign

IDS = torch.tensor([[1, 2, 3]])
REPLACED: Any = ((LlamaMLP, "forward"), (modeling_llama, "rotate_half"), (nn.functional, "silu"))


@pytest.fixture(scope="module")
def model() -> Any:
    return open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu")).resident(torch.device("cpu"))


@pytest.fixture
def patch(model: Any) -> Iterator[pytest.MonkeyPatch]:
    OwnCode(model)  # sees the names as they are
    with pytest.MonkeyPatch.context() as patched:
        yield patched


def forward(model: Any) -> None:
    with torch.no_grad(), refuse_foreign():
        model(model(IDS, use_cache=True).logits.argmax(-1), use_cache=True)


def half(module: Any, *args: Any, **kwargs: Any) -> Any:
    return args[0] / 2


class Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class OtherNorm(LlamaRMSNorm):  # type: ignore[misc]
    def forward(self, hidden_states: Tensor) -> Tensor:
        return super().forward(hidden_states) * 0.9  # type: ignore[no-any-return]


def test_a_model_as_its_library_made_it_is_its_own(model: Any) -> None:
    forward(model)


@pytest.mark.parametrize(("place", "name"), REPLACED)
def test_what_is_replaced_is_told_and_taken_back_for_a_while(
    place: Any, name: str, model: Any, patch: pytest.MonkeyPatch
) -> None:
    original = vars(place)[name]
    wrapped = functools.wraps(original)(lambda *args, **kwargs: original(*args, **kwargs))
    patch.setattr(place, name, wrapped)
    with pytest.raises(ModelUnsupportedError, match=r"the resident model ran tests.models.test_own_code.test_what"):
        forward(model)
    with OwnCode(model).restored():
        assert vars(place)[name] is original
        forward(model)
    assert vars(place)[name] is wrapped


def test_a_method_that_a_class_got_since_is_taken_away_for_a_while(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LlamaMLP, "__call__", half, raising=False)
    with OwnCode(model).restored():
        assert "__call__" not in vars(LlamaMLP)
    assert LlamaMLP.__call__ is half


def test_a_hook_of_all_modules_does_not_run_in_between(model: Any) -> None:
    hook = module_hooks.register_module_forward_hook(lambda *_: 1 / 0)  # type: ignore[arg-type]
    try:
        with OwnCode(model).restored():
            forward(model)
        with pytest.raises(ModelUnsupportedError, match="lambda"):
            forward(model)
    finally:
        hook.remove()
    forward(model)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (DynamicLayer, "update", lambda layer, keys, values, *_, **__: (keys, values / 2)),
        (LlamaRMSNorm, "variance_epsilon", property(lambda norm: 1.0, lambda norm, value: None)),
        (nn.functional, "silu", functools.partial(half, None)),
    ],
)
def test_code_is_foreign_however_it_came_there(
    place: Any, name: str, value: Any, model: Any, patch: pytest.MonkeyPatch
) -> None:
    patch.setattr(place, name, value, raising=False)
    with pytest.raises(ModelUnsupportedError, match=r"the resident model ran tests\.models\.test_own_code"):
        forward(model)


def test_an_attention_that_was_put_into_the_registry_is_foreign(model: Any) -> None:
    kind = model.config._attn_implementation
    original = ALL_ATTENTION_FUNCTIONS[kind]
    ALL_ATTENTION_FUNCTIONS[kind] = lambda *args, **kwargs: original(*args, **kwargs)
    try:
        with pytest.raises(ModelUnsupportedError, match="lambda"):
            forward(model)
    finally:
        ALL_ATTENTION_FUNCTIONS[kind] = original


def test_a_mode_that_was_left_on_and_code_that_was_put_in_place_are_foreign(
    model: Any, patch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelUnsupportedError, match="Mode.__torch_function__"), Mode():
        forward(model)
    patch.setattr(modeling_llama.rotate_half, "__code__", (lambda x: x).__code__)
    with pytest.raises(ModelUnsupportedError, match="lambda"):
        forward(model)


def test_a_class_of_somebody_elses_is_foreign(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(modeling_llama, "LlamaRMSNorm", OtherNorm)
    other = open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu"))
    with pytest.raises(ModelUnsupportedError, match="OtherNorm.forward"):
        forward(other.resident(torch.device("cpu")))


def test_what_nobody_calls_is_let_be(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tensor, "lovely", property(half), raising=False)
    patch.setattr(torch, "load", half)
    forward(model)


def test_a_profiler_that_is_on_goes_on(model: Any) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    forward(model)
    assert len([1, 2]) == 2
    profiler.disable()
    assert "built-in method builtins.len" in str(pstats.Stats(profiler).stats.keys())  # type: ignore[attr-defined]
    assert sys.getprofile() is None


def test_a_profiler_that_cannot_be_put_aside_is_named(model: Any) -> None:
    with profile(with_stack=True), pytest.raises(ModelUnsupportedError, match="a profiler is on"):
        forward(model)
    forward(model)
