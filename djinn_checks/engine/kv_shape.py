"""What one token of a session costs: the shape of a model's KV cache, read off a cache that transformers made.

Head counts, head sizes and windows differ between layers and models, and configurations name them in many
ways. A cache that has been through one forward has them all, so nothing is derived from a configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from djinn_checks.errors import KvError

TOKEN_GRANULE = 16
"""Capacities are multiples of this many tokens, so that every region starts well aligned."""


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """Keys are [1, key_heads, T, key_dim], values [1, value_heads, T, value_dim]."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    window: int | None = None
    """Tokens that a sliding-window layer attends to; None: all."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """The keys or the values of one layer, for all tokens: [T, heads, dim], contiguous."""

    name: str
    heads: int
    dim: int
    token_bytes: int
    """Bytes of one token in this region."""
    start_bytes: int
    """Bytes of one token in all regions before this one: the region starts at T times that."""


@dataclass(frozen=True)
class KvShape:
    """The KV cache of one model at batch 1."""

    layers: tuple[LayerShape, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, cache: Any) -> KvShape:
        """Return the shape of a `transformers.DynamicCache` that has been through a forward at batch 1.

        Raises:
            KvError: a layer is of a kind that is not plain or sliding-window attention, holds nothing, has
                a batch, or another dtype than the first.
        """
        shapes = tuple(_layer_shape(index, layer) for index, layer in enumerate(cache.layers))
        if not shapes:
            raise KvError("the KV cache has no layers; expected a DynamicCache that has been through a forward")
        dtypes = {tensor.dtype for layer in cache.layers for tensor in (layer.keys, layer.values)}
        if len(dtypes) != 1:
            raise KvError(f"the KV cache mixes {sorted(map(str, dtypes))}; expected one dtype, load the model in one")
        return cls(shapes, dtypes.pop())

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Keys and values of every layer, in the order in which they lie in memory."""
        return tuple(self._make_regions())

    def _make_regions(self) -> Iterator[Region]:
        start = 0
        for index, layer in enumerate(self.layers):
            parts = (("keys", layer.key_heads, layer.key_dim), ("values", layer.value_heads, layer.value_dim))
            for part, heads, dim in parts:
                size = heads * dim * self.dtype.itemsize
                yield Region(name=f"layer {index} {part}", heads=heads, dim=dim, token_bytes=size, start_bytes=start)
                start += size

    @cached_property
    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return sum(region.token_bytes for region in self.regions)

    def capacity(self, tokens: int) -> int:
        """Return the tokens that memory is taken for when `tokens` are asked for."""
        return -(-tokens // TOKEN_GRANULE) * TOKEN_GRANULE

    def device_bytes(self, tokens: int) -> int:
        """Return the device memory that a session of up to `tokens` tokens takes."""
        return self.capacity(tokens) * self.token_bytes


def _layer_shape(index: int, layer: Any) -> LayerShape:
    # Exact types: a subclass keeps more than keys and values, and what it keeps would be lost in a swap.
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        raise KvError(
            f"layer {index} keeps its state in a {type(layer).__name__}; expected plain or sliding-window attention "
            "(DynamicLayer, DynamicSlidingWindowLayer), choose a model that has no other"
        )
    keys, values = layer.keys, layer.values
    if keys is None or values is None or keys.dim() != 4:
        raise KvError(f"layer {index} holds no keys and values; expected a cache that has been through a forward")
    if keys.shape[0] != 1:
        raise KvError(f"layer {index} holds a batch of {keys.shape[0]}; sessions are kept at batch 1")
    return LayerShape(
        key_heads=keys.shape[1],
        key_dim=keys.shape[3],
        value_heads=values.shape[1],
        value_dim=values.shape[3],
        window=getattr(layer, "sliding_window", None),
    )
