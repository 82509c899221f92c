"""A recorded decode step gives the module's bits, over any session's cache, or is not used at all."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.decode_graphs import DecodeGraphs, _record, record_decode
from djinn_checks.engine.kv_cache import probe_shape
from djinn_checks.engine.turn import Token
from djinn_checks.errors import KvError
from djinn_checks.models.open import open_model
from tests.engine.agent_bench import Bench, fail, prompt_of
from tests.engine.small_models import CPU, SIZES, make, new_cache

CONFIGS = {
    "llama-mha": LlamaConfig(**SIZES, num_key_value_heads=4),
    "llama-gqa": LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=1),
    "qwen3": Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=16),
}


WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


class Tape(TorchDispatchMode):
    """A graph for a CPU: notes every operation, and does them again with the same tensors."""

    def capture_begin(self, pool: Any = None) -> None:
        self.noted: list[tuple[Any, Any, Any, Any]] = []
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.noted.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.noted:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Forgetful(Tape):
    """One whose replay does nothing."""

    def replay(self) -> None:
        pass


@torch.no_grad()
def alone(module: Any, device: torch.device, tokens: list[int], prompt: int) -> list[torch.Tensor]:
    """Logits of each token behind the prompt, by the module."""
    cache = new_cache(probe_shape(module, device), len(tokens), device=device)
    pieces = [tokens[:prompt], *([token] for token in tokens[prompt:])]
    found = [
        module(input_ids=torch.tensor([piece], device=device), past_key_values=cache, use_cache=True)
        for piece in pieces
    ]
    return [output.logits[0, -1].cpu() for output in found[1:]]


@torch.no_grad()
def in_turns(module: Any, device: torch.device, graphs: DecodeGraphs, sessions: list[list[int]], prompt: int) -> Any:
    """The same by the graphs, for several sessions, one token of each in turn."""
    caches = [new_cache(probe_shape(module, device), len(tokens), device=device) for tokens in sessions]
    for cache, tokens in zip(caches, sessions, strict=True):
        module(input_ids=torch.tensor([tokens[:prompt]], device=device), past_key_values=cache, use_cache=True)
    found: list[list[torch.Tensor]] = [[] for _ in sessions]
    for place in range(prompt, len(sessions[0])):
        for logits, cache, tokens in zip(found, caches, sessions, strict=True):
            logits.append(graphs.step(tokens[place], cache).clone().cpu())
    assert [cache.length for cache in caches] == [len(tokens) for tokens in sessions]
    return found


def some_sessions(vocabulary: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for _ in range(3)]


@pytest.mark.parametrize("name", CONFIGS)
def test_sessions_in_turns_get_the_bits_that_each_gets_alone(name: str) -> None:
    module = make(CONFIGS[name])
    graphs = record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape)
    assert graphs is not None
    sessions = some_sessions(97, 30)
    for found, tokens in zip(in_turns(module, CPU, graphs, sessions, 11), sessions, strict=True):
        assert all(map(torch.equal, found, alone(module, CPU, tokens, 11)))


def test_the_module_is_left_as_it_was() -> None:
    module = make(CONFIGS["llama-gqa"])
    before = alone(module, CPU, list(range(20)), 5)
    assert record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape) is not None
    assert module.config._attn_implementation == "sdpa"
    assert all(map(torch.equal, before, alone(module, CPU, list(range(20)), 5)))


def test_graphs_that_give_other_bits_are_not_used(caplog: pytest.LogCaptureFixture) -> None:
    module = make(CONFIGS["llama-mha"])
    assert record_decode(module, probe_shape(module, CPU), CPU, make_graph=Forgetful) is None
    assert "other bits" in caplog.text


def test_a_recording_that_fails_costs_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    module = make(CONFIGS["llama-mha"])
    module.model.layers[1].mlp.register_forward_hook(wait_for_the_device)
    assert record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape) is None
    assert "not permitted" in caplog.text
    assert module.config._attn_implementation == "sdpa"
    assert not _get_current_dispatch_mode_stack()


def wait_for_the_device(module: Any, args: Any, out: torch.Tensor) -> None:
    out.sum().item()


def without_cache(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return args, {**kwargs, "past_key_values": None}


def fill_twice(module: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
    kwargs["past_key_values"].update(torch.zeros(1, 4, 1, 16), torch.zeros(1, 4, 1, 16), 1)


@pytest.mark.parametrize(
    ("add", "why"),
    [
        (
            lambda layer: layer.register_forward_pre_hook(without_cache, with_kwargs=True),
            "no keys and values of its own",
        ),
        (lambda layer: layer.register_forward_hook(fill_twice, with_kwargs=True), "was not seen"),
    ],
)
def test_a_model_whose_attention_and_cache_do_not_alternate_is_not_recorded(
    add: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    module = make(CONFIGS["llama-mha"])
    shape = probe_shape(module, CPU)
    add(module.model.layers[1].self_attn)
    with pytest.raises(KvError, match=why), torch.no_grad():
        _record(module, shape, CPU, Tape)
    assert module.config._attn_implementation == "sdpa"
    assert not _get_current_dispatch_mode_stack()


def test_what_changes_with_the_position_is_noticed_at_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    def change(module: Any, args: Any, kwargs: dict[str, Any], out: torch.Tensor) -> torch.Tensor:
        is_far = bool(not in_tape() and kwargs["position_ids"].max() > 200)
        return out[0] * (1 + is_far), out[1]

    module = make(CONFIGS["llama-mha"])
    module.model.rotary_emb.register_forward_hook(change, with_kwargs=True)
    assert record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape) is None
    assert "other bits than the module at position 255" in caplog.text


def in_tape() -> bool:
    return bool(_get_current_dispatch_mode_stack())


@pytest.mark.parametrize(
    ("config", "attention", "why"),
    [
        (CONFIGS["llama-mha"], "eager", "'eager'"),
        (MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8, head_dim=16), "sdpa", "window"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
            "sdpa",
            "length",
        ),
    ],
)
def test_what_is_not_recorded_says_why(config: Any, attention: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
    module = make(config, attention=attention)
    assert record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape) is None
    assert why in caplog.text


def served(recorded: bool) -> list[list[Token]]:
    """What two sessions that compute in turns, and both sleep in between, are told in two turns each."""
    bench = Bench()
    if recorded:
        bench.engine.graphs = record_decode(bench.module, bench.engine.store.shape, CPU, make_graph=Tape)
        assert bench.engine.graphs is not None
    told: list[list[Token]] = []
    prompts = {"a": prompt_of(1), "b": prompt_of(2, 23)}
    for _ in range(2):
        heard = {name: bench.ask(name, prompt, 6, logprobs=2)[0] for name, prompt in prompts.items()}
        bench.until(lambda now=heard: all(answer.is_over for answer in now.values()))  # type: ignore[misc]
        for name, answer in heard.items():
            assert len(answer.tokens) == 6
            told.append(answer.tokens)
            prompts[name] = [*prompts[name], *answer.ids, 7]
            bench.fall_asleep(name)
    bench.engine.stop()
    return told


def test_an_engine_says_the_same_with_graphs_through_neighbours_and_sleep() -> None:
    assert served(recorded=True) == served(recorded=False)


def test_a_step_that_fails_half_way_costs_its_turn_and_no_more() -> None:
    bench = Bench()
    graphs = record_decode(bench.module, bench.engine.store.shape, CPU, make_graph=Tape)
    assert graphs is not None
    bench.engine.graphs = graphs
    expected = bench.answer("before", prompt_of(1)).ids
    broken = dataclasses.replace(graphs.pieces[1], attend=fail)
    bench.engine.graphs = dataclasses.replace(graphs, pieces=(graphs.pieces[0], broken, *graphs.pieces[2:]))
    assert isinstance(bench.answer("a", prompt_of(1)).error, torch.OutOfMemoryError)
    bench.engine.graphs = graphs
    assert bench.answer("a", prompt_of(1)).ids == expected
    bench.engine.stop()


def test_without_a_gpu_there_is_nothing_to_record() -> None:
    module = make(CONFIGS["llama-mha"])
    assert record_decode(module, probe_shape(module, CPU), CPU) is None


def test_a_model_of_another_make_is_recorded_with_the_same_bits_or_not_at_all() -> None:
    module = make(GPT2Config(vocab_size=97, n_embd=64, n_layer=3, n_head=4, n_positions=256))
    graphs = record_decode(module, probe_shape(module, CPU), CPU, make_graph=Tape)
    if graphs is not None:
        tokens = some_sessions(97, 30)
        for found, one in zip(in_turns(module, CPU, graphs, tokens, 11), tokens, strict=True):
            assert all(map(torch.equal, found, alone(module, CPU, one, 11)))


@pytest.mark.gpu
def test_on_a_gpu_a_model_that_waits_for_the_device_is_not_recorded_and_nothing_is_broken() -> None:
    device = torch.device("cuda:0")
    module = open_model("random:tiny", dtype=torch.float16, device=device, seed=0).resident(device)
    hook = module.model.layers[1].mlp.register_forward_hook(wait_for_the_device)
    assert record_decode(module, probe_shape(module, device), device) is None
    hook.remove()
    torch.cuda.empty_cache()
    assert record_decode(module, probe_shape(module, device), device) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("spec", ["random:llama-2-7b", "smollm2"])
def test_on_a_gpu_the_bits_are_the_modules_at_any_length(spec: str) -> None:
    device = torch.device("cuda:0")
    module = open_model(spec, dtype=torch.float16, device=device, seed=0).resident(device)
    with reproducible_attention():
        graphs = record_decode(module, probe_shape(module, device), device)
        assert graphs is not None
        for prompt in (1, 700, 2040):
            sessions = some_sessions(32000, prompt + 20)
            for found, tokens in zip(in_turns(module, device, graphs, sessions, prompt), sessions, strict=True):
                assert all(map(torch.equal, found, alone(module, device, tokens, prompt)))
