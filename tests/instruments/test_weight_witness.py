"""The weight witness sees every weight at its use, in any model, and counts memory, not promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from djinn_checks.digest import digest
from djinn_checks.instruments.weight_witness import QuietWitness, WeightEvidence, WeightWitness

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2_SHAPE = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
OPT_SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}
MOE_SHAPE = {**SHAPE, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**GPT2_SHAPE)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**MOE_SHAPE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**SHAPE, head_dim=8)),
    "opt": lambda: OPTForCausalLM(OPTConfig(**OPT_SHAPE)),
}
IDS = torch.arange(1, 12)[None]


def make(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a tiny model without two weights of equal bytes, so that each counts."""
    torch.manual_seed(0)
    model = MODELS[kind]().to(dtype).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def watch(model: nn.Module, reference: WeightEvidence | None = None) -> WeightEvidence:
    with WeightWitness(reference) as witness:
        model(IDS, use_cache=True)
    evidence = witness.evidence()
    assert evidence is not None
    return evidence


def parameter_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_of_a_resident_model_is_seen_once_and_none_moved(kind: str, dtype: torch.dtype) -> None:
    model = make(kind, dtype)
    seen = watch(model)
    assert set(seen.weights) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert seen.used_bytes == seen.exact_bytes == seen.distinct_bytes == parameter_bytes(model)
    assert seen.moved_bytes_lower_bound == 0
    again = watch(model, seen)
    assert again.complete
    assert again.different == ()


@pytest.mark.parametrize("kind", MODELS)
def test_the_witness_changes_no_result_and_leaves_no_hook(kind: str) -> None:
    model = make(kind)
    with torch.no_grad():
        before = model(IDS).logits
        with WeightWitness():
            during = model(IDS).logits
    assert torch.equal(before, during)
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


class Slots:
    """Copies each leaf module's weights from a host copy into one place, right before they are used."""

    def __init__(self, model: nn.Module) -> None:
        self.leaves = {name: leaf for name, leaf in model.named_modules() if leaf._parameters}
        largest = max(
            sum(p.numel() for p in leaf._parameters.values() if p is not None) for leaf in self.leaves.values()
        )
        self.memory = torch.empty(largest)
        self.host = {
            name: {n: p.data for n, p in leaf._parameters.items() if p is not None}
            for name, leaf in self.leaves.items()
        }
        for name, leaf in self.leaves.items():
            leaf.register_forward_pre_hook(lambda module, args, name=name: self.fill(name))

    def fill(self, name: str) -> None:
        start = 0
        for key, value in self.host[name].items():
            place = self.memory[start : start + value.numel()].view_as(value)
            place.copy_(value)
            self.leaves[name]._parameters[key] = nn.Parameter(place, requires_grad=False)
            start += value.numel()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
def test_weights_through_one_slot_prove_that_all_but_the_slot_moved(kind: str) -> None:
    model = make(kind)
    reference = watch(model)
    slots = Slots(model)
    seen = watch(model, reference)
    assert (seen.different, seen.complete) == ((), True)
    assert seen.used_bytes == reference.used_bytes
    assert seen.distinct_bytes <= slots.memory.nbytes
    assert seen.moved_bytes_lower_bound == seen.used_bytes - seen.distinct_bytes


def test_a_weight_changed_before_its_use_is_named_and_proves_no_movement() -> None:
    model = make("llama")
    reference = watch(model)
    slots = Slots(model)
    wrong = "model.layers.1.mlp.up_proj.weight"
    slots.host[wrong.removesuffix(".weight")]["weight"][3, 5] += 1e-6
    seen = watch(model, reference)
    assert seen.different == (wrong,)
    assert seen.exact_bytes == seen.used_bytes - 64 * 32 * 4 == reference.bytes_without([wrong])


def test_a_slot_that_is_never_filled_is_all_different_and_moved_nothing() -> None:
    model = make("llama")
    reference = watch(model)
    memory = torch.zeros(64 * 97)
    for parameter in model.parameters():
        parameter.data = memory[: parameter.numel()].view_as(parameter)
    seen = watch(model, reference)
    assert seen.different == reference.weights
    assert seen.moved_bytes_lower_bound == 0


def test_a_weight_that_is_overwritten_too_early_is_seen_at_its_second_use() -> None:
    model = make("llama-tied")
    reference = watch(model)

    def overwrite(*_: Any) -> None:
        model.model.embed_tokens.weight.data[0].zero_()

    model.model.layers[0].register_forward_hook(overwrite)
    assert watch(model, reference).different == ("lm_head.weight",)


def test_a_weight_that_is_spoiled_after_it_was_touched_within_one_call_is_seen() -> None:
    model = make("llama")
    projection = model.model.layers[1].mlp.up_proj

    def spoil(module: nn.Module, args: Any) -> None:
        assert module.weight.sum().isfinite()  # a touch, before the use
        module.weight[3].zero_()

    reference = watch(model)
    with torch.no_grad():
        hook = projection.register_forward_pre_hook(spoil)
        seen = watch(model, reference)
    hook.remove()
    assert seen.different == ("model.layers.1.mlp.up_proj.weight",)


def test_tied_and_equal_weights_count_once() -> None:
    model = make("llama-tied")
    twin = model.model.layers[1].mlp.up_proj.weight
    model.model.layers[2].mlp.up_proj.weight.data.copy_(twin)
    seen = watch(model)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(seen.weights)
    assert seen.used_bytes == parameter_bytes(model) - twin.nbytes
    assert seen.distinct_bytes == parameter_bytes(model)


def test_packing_weights_in_a_hook_is_no_use() -> None:
    model = make("llama")
    reference = watch(model)
    packed = torch.empty(32 * 97)

    def pack(module: nn.Module, args: Any) -> None:
        for parameter in module.parameters():
            packed[: parameter.numel()].copy_(parameter.reshape(-1))
            packed[: parameter.numel()] = parameter.view(-1)
            parameter.to("cpu", copy=True).clone().numel()

    model.model.layers[1].register_forward_pre_hook(pack)
    other = make("llama")
    other.load_state_dict(model.state_dict())
    assert watch(model, reference) == reference == watch(model)


def test_a_wrapped_model_is_recognised_by_the_end_of_its_names_and_a_renamed_one_by_content() -> None:
    model = make("llama")
    reference = watch(model)

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.inner(*args, **kwargs)

    assert watch(Wrapper(), reference) == reference
    model.model.layers[0].mlp = nn.Sequential(model.model.layers[0].mlp)
    renamed = watch(model, reference)
    assert renamed.complete
    assert renamed.different == ()
    assert "model.layers.0.mlp.0.up_proj.weight" in renamed.weights


def test_a_weight_that_is_used_unseen_makes_the_evidence_incomplete() -> None:
    model = make("llama")
    reference = watch(model)
    norm = model.model.norm
    hidden = norm._parameters.pop("weight").data
    object.__setattr__(norm, "weight", hidden[None])  # a plain tensor in another shape is not seen
    seen = watch(model, reference)
    assert seen.unseen == ("model.norm.weight",)
    assert not seen.complete


def test_a_weight_that_no_module_owns_is_known_by_its_bytes() -> None:
    model = make("llama")
    reference = watch(model)
    for name, leaf in list(model.named_modules()):
        if name.endswith("_proj"):
            hidden = leaf._parameters.pop("weight").data
            object.__setattr__(leaf, "weight", hidden)
    seen = watch(model, reference)
    assert (seen.different, seen.unknown, seen.unseen) == ((), (), ())
    assert seen.distinct_bytes == seen.exact_bytes == reference.exact_bytes


def test_weights_of_one_layer_in_another_are_named_with_whose_they_are() -> None:
    model = make("llama")
    reference = watch(model)
    for name, value in model.model.layers[2].named_parameters():
        model.model.layers[0].get_parameter(name).data = value.data.clone()
    seen = watch(model, reference)
    assert len(seen.different) == 9
    assert seen.bytes_of["model.layers.0.mlp.up_proj.weight"] == "model.layers.2.mlp.up_proj.weight"


def test_blocks_that_are_called_one_by_one_lose_no_weight_to_equal_names() -> None:
    model = make("llama")
    with torch.no_grad(), WeightWitness() as witness:
        for block in model.model.layers:
            block.mlp(torch.ones(1, 3, 32))
    seen = witness.evidence()
    assert seen is not None
    assert seen.used_bytes == seen.exact_bytes == sum(parameter_bytes(block.mlp) for block in model.model.layers)


class Disguised(nn.Parameter):
    """A parameter that gives a false address, device and content."""

    def data_ptr(self) -> int:
        return 12345

    def detach(self) -> torch.Tensor:
        return torch.zeros(4)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("data_ptr", "untyped_storage", "contiguous", "flatten"):
            return 12345
        return super().__torch_function__(func, types, args, kwargs or {})


def test_a_parameter_cannot_speak_for_itself() -> None:
    model = make("llama")
    reference = watch(model)
    for module in model.modules():
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = Disguised(value.data, requires_grad=False)
    seen = watch(model, reference)
    assert seen == reference
    assert seen.distinct_bytes == parameter_bytes(model)


@torch.no_grad()
def watch_quietly(model: nn.Module, reference: WeightEvidence) -> WeightEvidence | None:
    with QuietWitness(reference) as witness:
        model(IDS, use_cache=True)
    return witness.evidence()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2", "gemma", "opt"])
def test_the_quiet_witness_sees_the_same_memory_and_shows_nothing(kind: str, dtype: torch.dtype) -> None:
    model = make(kind, dtype)
    reference = watch(model)
    found = []
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda *_: found.append(
            (len(_get_current_function_mode_stack()), bool(nn.modules.module._global_forward_pre_hooks))
        )
    )
    with torch.no_grad():
        before = model(IDS).logits
    seen = watch_quietly(model, reference)
    assert seen is not None
    assert (seen.different, seen.unknown, seen.unseen) == ((), (), ())
    assert seen.distinct_bytes == reference.distinct_bytes
    assert found == [(0, False)] * 2
    with torch.no_grad(), QuietWitness(reference):
        assert torch.equal(model(IDS).logits, before)
    hook.remove()


def test_no_modules_is_no_evidence() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    with WeightWitness() as witness:
        nn.functional.linear(torch.ones(1, 3), weight)
    assert witness.evidence() is None


def test_an_exception_in_a_module_leaves_the_witness_usable() -> None:
    model = make("llama")
    handle = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), WeightWitness():
        model(IDS)
    handle.remove()
    assert set(watch(model).weights) == {name for name, _ in model.named_parameters()}


def test_digests_are_those_of_the_parameters() -> None:
    model = make("gpt2")
    seen = watch(model)
    for name, parameter in model.named_parameters():
        assert seen.contents[name] == (int(digest(parameter)), parameter.nbytes)


def test_accelerate_hooks_that_replace_parameters_after_the_call_began_are_followed() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = make("llama")
    reference = watch(model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    seen = watch(model, reference)
    assert (seen.different, seen.unknown, seen.unseen) == ((), (), ())
    assert seen.used_bytes == reference.used_bytes


@pytest.mark.parametrize(("stale", "verdict"), [((1, 3), "unknown"), ((0, 1, 2, 3), "different")])
def test_experts_of_which_some_are_old_may_be_those_that_nobody_asked(stale: tuple[int, ...], verdict: str) -> None:
    model = make("qwen3-moe")
    with WeightWitness() as whole:
        model(IDS)
    name = "model.layers.1.mlp.experts.down_proj"
    for expert in stale:
        model.get_parameter(name).data[expert] += 1.0
    with WeightWitness(whole.evidence()) as witness:
        model(IDS)
    evidence = witness.evidence()
    assert evidence is not None
    assert evidence.different == ((name,) if verdict == "different" else ())
    assert evidence.unknown == ((name,) if verdict == "unknown" else ())
    assert evidence.complete is (verdict == "different")


class _Odd(nn.Module):
    """Its parameters have no bytes that could be looked at, or none that are their numbers."""

    def __init__(self) -> None:
        super().__init__()
        quantized = torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)
        self.quantized = nn.Parameter(quantized, requires_grad=False)
        self.conjugate = nn.Parameter(torch.ones(4, dtype=torch.complex64).conj(), requires_grad=False)
        self.plain = nn.Parameter(torch.ones(4, 4), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        each = torch.vmap(lambda row: nn.functional.linear(row, self.plain))(x)
        return each * self.quantized.dequantize() * (self.conjugate * 1).real


def test_parameters_that_cannot_be_looked_at_are_not_seen_and_do_no_harm() -> None:
    with WeightWitness() as witness:
        _Odd()(torch.ones(2, 4))
    evidence = witness.evidence()
    assert evidence is None or not {"quantized", "conjugate"} & set(evidence.weights)
