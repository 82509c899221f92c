"""Attention over the stored cache is bit-equal to attention over transformers' own cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.kv_cache import probe_shape
from djinn_checks.engine.kv_shape import KvShape
from djinn_checks.errors import KvError
from djinn_checks.models.open import open_model
from tests.engine.small_models import CPU, SIZES, make, new_cache

CONFIGS = {
    "llama-mha": LlamaConfig(**SIZES, num_key_value_heads=4),
    "llama-gqa": LlamaConfig(**SIZES, num_key_value_heads=2),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=1),
    "mistral-window": MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=8, head_dim=16),
    "gemma3-mixed": Gemma3TextConfig(**SIZES, num_key_value_heads=2, head_dim=16, sliding_window=6),
}


@torch.no_grad()
def turns(module: Any, cache: Any, pieces: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of pieces of tokens, one forward each, through one cache."""
    return [module(input_ids=piece, past_key_values=cache, use_cache=True).logits for piece in pieces]


def pieces(device: torch.device = CPU, vocabulary: int = 97, sizes: tuple[int, ...] = ()) -> list[torch.Tensor]:
    """A prompt, decoded tokens, a second prompt, decoded tokens."""
    generator = torch.Generator().manual_seed(2)
    sizes = sizes or (13, 1, 1, 1, 5, 1, 1)
    return [torch.randint(0, vocabulary, (1, size), generator=generator).to(device) for size in sizes]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_two_turns_over_the_stored_cache_are_bit_equal(name: str, dtype: torch.dtype, attention: str) -> None:
    module = make(CONFIGS[name], dtype, attention)
    expected = turns(module, DynamicCache(config=module.config), pieces())
    stored = new_cache(probe_shape(module, CPU), 40, compact=attention == "eager")
    for ours, theirs in zip(turns(module, stored, pieces()), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert stored.length == stored.get_seq_length() == 23


@pytest.mark.parametrize("name", ["llama-gqa", "mistral-window"])
def test_a_truncated_cache_continues_as_if_the_rest_had_never_been(name: str) -> None:
    module = make(CONFIGS[name], torch.float32, "sdpa")
    shape = probe_shape(module, CPU)
    first, *_, other = pieces()
    stored = new_cache(shape, 40, compact=False)
    turns(module, stored, pieces())
    stored.truncate(first.shape[1])
    fresh = DynamicCache(config=module.config)
    turns(module, fresh, [first])
    assert torch.equal(turns(module, stored, [other])[0], turns(module, fresh, [other])[0])


def test_the_tokens_so_far_are_one_piece_of_each_region_whatever_the_capacity() -> None:
    module = make(CONFIGS["llama-gqa"], torch.float32, "sdpa")
    shape = probe_shape(module, CPU)
    small, large = new_cache(shape, 23, compact=False), new_cache(shape, 200, compact=False)
    turns(module, small, pieces())
    turns(module, large, pieces())
    assert small.block.capacity < large.block.capacity
    used = zip(small.block.used(23), large.block.used(23), strict=True)
    assert all(torch.equal(left, right) for left, right in used)
    assert sum(view.numel() for view in small.block.used(23)) == 23 * shape.token_bytes
    assert len(shape.regions) == 6
    assert shape.token_bytes == 3 * 2 * 2 * 16 * 4


def test_a_full_block_and_a_batch_are_refused() -> None:
    module = make(CONFIGS["llama-gqa"], torch.float32, "sdpa")
    stored = new_cache(probe_shape(module, CPU), 16, compact=False)
    turns(module, stored, pieces()[:1])
    with pytest.raises(KvError, match="holds 16 tokens at batch 1; the forward brings tokens 13 to 18"):
        turns(module, stored, [pieces()[4]])
    stored.truncate(13)
    assert stored.length == 13
    with pytest.raises(KvError, match="batch 2"):
        turns(module, new_cache(probe_shape(module, CPU), 16, compact=False), [pieces()[0].expand(2, 13)])


def test_caches_that_hold_more_than_keys_and_values_are_refused() -> None:
    class Stranger(DynamicCache):
        pass

    with pytest.raises(KvError, match="no layers"):
        KvShape.of(Stranger())
    cache = DynamicCache()
    cache.update(torch.zeros(2, 1, 1, 4), torch.zeros(2, 1, 1, 4), 0)
    with pytest.raises(KvError, match="batch of 2"):
        KvShape.of(cache)
    other: Any = type("Layer", (type(cache.layers[0]),), {})()
    cache.layers[0] = other
    with pytest.raises(KvError, match="state in a Layer"):
        KvShape.of(cache)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", ["random:llama-2-7b", "smollm2"])
def test_on_a_gpu_two_turns_are_bit_equal_too(spec: str, dtype: torch.dtype) -> None:
    device = torch.device("cuda", 0)
    model = open_model(spec, dtype=dtype, device=device)
    module: Any = model.resident(device)
    asked = pieces(device, int(model.config.vocab_size), (1500, *[1] * 12, 200, *[1] * 12))
    with reproducible_attention():
        expected = turns(module, DynamicCache(config=module.config), asked)
        stored = new_cache(probe_shape(module, device), 2048, compact=False, device=device)
        for ours, theirs in zip(turns(module, stored, asked), expected, strict=True):
            assert torch.equal(ours, theirs)
