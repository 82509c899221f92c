"""A session's KV cache in one block of memory, behind the interface of transformers' `DynamicCache`.

A `DynamicCache` makes each layer's keys and values anew for every token, in as many allocations as it has
tensors. Here they lie in one block that is taken once per turn, region after region (`KvShape.regions`), each
[capacity, heads, dim]: the tokens so far are a prefix of each region, so a session leaves the device in one
copy a region whatever its capacity, and a new token is written in place.

Attention gets views [1, heads, T, dim] of the same values as from a `DynamicCache`, with other strides. The
kernels behind scaled dot-product attention take strides and do the same arithmetic. A plain matrix product
may choose another algorithm by them, so for "eager" attention the views are made contiguous (`compact`),
which is what `DynamicCache` does for every token.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from djinn_checks.decode_cache import carried_over
from djinn_checks.engine.kv_shape import KvShape, LayerShape
from djinn_checks.errors import KvError

_ROWS = 8


class KvBlock:
    """The memory of one session: regions of `capacity` tokens, one after the other.

    Attributes:
        memory: 1-d uint8 tensor of `shape.device_bytes(capacity)` bytes.
    """

    def __init__(self, shape: KvShape, memory: Tensor) -> None:
        self.shape = shape
        self.memory = memory
        self.capacity = memory.numel() // shape.token_bytes

    def used(self, tokens: int) -> list[Tensor]:
        """Return the bytes of the first `tokens` tokens of every region: 1-d uint8 views, in the regions' order."""
        views = []
        for region in self.shape.regions:
            start = region.start_bytes * self.capacity
            views.append(self.memory[start : start + region.token_bytes * tokens])
        return views

    def used_rows(self, tokens: int) -> list[Tensor]:
        """Return the same bytes as `used`, neighbouring regions of one size together: uint8 [regions, bytes], strided.

        At most `_ROWS` regions stand together, so that what is done with them can begin before all are there; and
        towards the end ever fewer, so that little is left to do when the last one is.
        """
        groups = []
        for size, found in groupby(self.shape.regions, key=lambda region: region.token_bytes):
            regions = list(found)
            while regions:
                count = min(_ROWS, -(-len(regions) // 2))
                start = regions[0].start_bytes * self.capacity
                data = self.memory[start : start + count * size * self.capacity]
                groups.append(data.view(count, size * self.capacity)[:, : size * tokens])
                del regions[:count]
        return groups

    def region_tensors(self) -> list[Tensor]:
        """Return every region as [capacity, heads, dim] in the cache's dtype."""
        tensors = []
        for region, data in zip(self.shape.regions, self.used(self.capacity), strict=True):
            tensors.append(data.view(self.shape.dtype).view(self.capacity, region.heads, region.dim))
        return tensors


class SessionCache(Cache):  # type: ignore[misc]
    """The cache to give a model as `past_key_values`, with a fixed capacity."""

    def __init__(self, block: KvBlock, *, length: int = 0, compact: bool = False) -> None:
        """Lay a cache over `block`, whose first `length` tokens are filled."""
        tensors = block.region_tensors()
        pairs = zip(block.shape.layers, tensors[::2], tensors[1::2], strict=True)
        super().__init__(layers=[_make_layer(shape, keys, values, compact) for shape, keys, values in pairs])
        self.block = block
        self.truncate(length)

    @property
    def length(self) -> int:
        """Tokens that every layer holds."""
        return min(int(layer.get_seq_length()) for layer in self.layers)

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens in every layer. After a forward that failed half way, layers differ."""
        for layer in self.layers:
            layer.set_length(length)

    def crop(self, *args: Any) -> None:
        """Refused: it means another thing in each version of transformers. `truncate` does what is meant."""
        raise KvError("a session's cache is cut with truncate(length), not with crop")


class _StoredLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, written in place."""

    def __init__(self, keys: Tensor, values: Tensor, compact: bool) -> None:
        super().__init__()
        # [1, heads, capacity, dim], as the model has them: each token costs two cuts a tensor, and no turning.
        self._stored_keys, self._stored_values = (part.transpose(0, 1).unsqueeze(0) for part in (keys, values))
        self._compact = compact
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.set_length(0)

    def set_length(self, length: int) -> None:
        self._length = length
        self.keys, self.values = self._view(self._stored_keys, 0), self._view(self._stored_values, 0)

    def get_seq_length(self, *args: Any) -> int:
        return self._length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self._append(key_states, value_states)
        self.keys, self.values = self._view(self._stored_keys, 0), self._view(self._stored_values, 0)
        return self.keys, self.values

    def _append(self, key_states: Tensor, value_states: Tensor) -> None:
        start, count, capacity = self._length, key_states.shape[-2], self._stored_keys.shape[2]
        if start + count > capacity or key_states.shape[0] != 1:
            raise KvError(
                f"the KV block holds {capacity} tokens at batch 1; the forward brings tokens {start} to "
                f"{start + count} at batch {key_states.shape[0]}: reserve room for the whole turn first"
            )
        self._stored_keys.narrow(2, start, count).copy_(key_states)
        self._stored_values.narrow(2, start, count).copy_(value_states)
        self._length += count

    def _view(self, stored: Tensor, first: int) -> Tensor:
        """Return tokens `first` to the last as [1, heads, tokens, dim]."""
        view = stored.narrow(2, first, self._length - first)
        return view.contiguous() if self._compact else view


class _StoredWindowLayer(DynamicSlidingWindowLayer):  # type: ignore[misc]
    """As `_StoredLayer`, for a layer that attends to a window. All tokens are kept, the window is returned."""

    def __init__(self, window: int, layer: _StoredLayer) -> None:
        super().__init__(sliding_window=window)
        self._layer = layer
        self.dtype, self.device = layer.dtype, layer.device
        self.is_initialized = True
        self.set_length(0)

    def set_length(self, length: int) -> None:
        self._layer.set_length(length)
        self.cumulative_length = length  # what the masks of the parent class are made from
        self.keys, self.values = self._layer.keys, self._layer.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        first = max(0, self.cumulative_length - self.sliding_window + 1)
        layer = self._layer
        layer._append(key_states, value_states)
        self.cumulative_length = layer._length
        self.keys, self.values = layer._view(layer._stored_keys, first), layer._view(layer._stored_values, first)
        return self.keys, self.values


def _make_layer(shape: LayerShape, keys: Tensor, values: Tensor, compact: bool) -> Any:
    layer = _StoredLayer(keys, values, compact)
    return layer if shape.window is None else _StoredWindowLayer(shape.window, layer)


@torch.no_grad()
def probe_shape(module: Any, device: torch.device) -> KvShape:
    """Run one token through `module` and return the shape of the KV cache that transformers makes for it.

    Raises:
        KvError: as `KvShape.of`, or the model keeps no KV cache.
    """
    ids = torch.zeros((1, 1), dtype=torch.int64, device=device)
    carried = carried_over(module(input_ids=ids, use_cache=True))
    if "past_key_values" not in carried:
        raise KvError(
            f"{type(module).__name__} keeps {next(iter(carried), 'no cache')}; expected a KV cache (past_key_values), "
            "choose a model of plain or sliding-window attention"
        )
    return KvShape.of(carried["past_key_values"])
