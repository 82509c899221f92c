"""Measures the pace of a model on a GPU before any of its weights are there.

The module itself runs a few tokens on weights that are all zero and share the memory of one segment: what a
kernel takes depends on shapes, not on values. Copies are timed on two blocks of pinned memory of their own, decodes on
normally distributed values, as weights are. All take well under a second, where reading a large model's weights twice
would take minutes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from djinn_checks.decode_cache import carried_over
from djinn_checks.engine.binding import bind_buffers, bind_parameters
from djinn_checks.engine.codec import Codec
from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.pacing import Pace
from djinn_checks.engine.segments import Cut
from djinn_checks.units import MIB

_FORWARDS = 5
_WARM_UP = 2
_COPIES = 5
_SIZES = (MIB, 32 * MIB)
"""Bytes. Memory takes longer to pin than to copy: 128 MiB some 50 ms, which every opening would wait for."""
_DECODED = 128 * MIB
"""At most so many bytes of values: a decoder is at its full rate with a layer's worth."""


def rehearse(model: nn.Module, cut: Cut, device: torch.device, *, codec: Codec | None = None) -> Pace | None:
    """Return the pace of decoding one token at a time on a CUDA device.

    Args:
        model: a causal LM of Hugging Face; it is left as it was found, its parameters may be on `meta`.
        device: holds one segment of weights, the buffers and the activations of one token meanwhile.
        codec: what segments will be decoded by.

    Returns:
        None if a forward does not pass every point of the cut exactly once.
    """
    stamps, ends = _run_on_zeros(model, cut, device)
    if any(len(forward) != len(cut.points) for forward in stamps):
        return None
    steps = [_steps([*forward, end]) for forward, end in zip(stamps, ends, strict=True)][_WARM_UP:]
    gaps = [end.elapsed_time(after[0]) / 1e3 for end, after in zip(ends, stamps[1:], strict=False)][_WARM_UP:]
    latency_s, bytes_per_s = _time_copies(device)
    torch.cuda.empty_cache()  # the ring takes one large block next
    return Pace(
        copy_latency_s=latency_s,
        copy_bytes_per_s=bytes_per_s,
        compute_s=tuple(statistics.median(column) for column in zip(*steps, strict=True)),
        gap_s=statistics.median(gaps),
        decode_bytes_per_s=_decode_rate(codec, cut, device) if codec is not None else None,
    )


def _run_on_zeros(model: nn.Module, cut: Cut, device: torch.device) -> tuple[list[list[Any]], list[Any]]:
    """Decode a few tokens on zeros; return the events before each point, forward by forward, and of the ends."""
    undo: list[Callable[[], Any]] = []
    zeros = torch.zeros(max(segment.nbytes for segment in cut.segments), dtype=torch.uint8, device=device)
    stamps: list[list[Any]] = []
    ends: list[Any] = []

    def stamp(*_: Any) -> None:
        stamps[-1].append(_record())

    try:
        bind_parameters(model, cut, lambda index: zeros[: cut.segments[index].nbytes], undo)
        bind_buffers(model, device, undo)
        for point in cut.points:
            undo.append(model.get_submodule(point.name).register_forward_pre_hook(stamp, prepend=True).remove)
        _decode(model, device, lambda: stamps.append([]), lambda: ends.append(_record()))
    finally:
        while undo:
            undo.pop()()
    return stamps, ends


def _record() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@torch.no_grad()
def _decode(model: Any, device: torch.device, begin: Callable[[], None], end: Callable[[], None]) -> None:
    """Decode a few tokens as a user does, waiting for each."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    cache: dict[str, Any] = {}
    for _ in range(_FORWARDS):
        begin()
        output = model(token, **cache, use_cache=True)
        end()
        cache, token = carried_over(output), output.logits[:, -1:].argmax(-1)
        torch.cuda.current_stream(device).synchronize()


def _steps(events: list[Any]) -> list[float]:
    return [float(a.elapsed_time(b)) / 1e3 for a, b in itertools.pairwise(events)]


def _time_copies(device: torch.device) -> tuple[float, float]:
    """Return latency and rate of copies: the line through a small and a large one."""
    small, large = (_copy_seconds(device, nbytes) for nbytes in _SIZES)
    rate = (_SIZES[1] - _SIZES[0]) / max(large - small, 1e-9)
    return max(0.0, small - _SIZES[0] / rate), rate


def _decode_rate(codec: Codec, cut: Cut, device: torch.device) -> float:
    """Return the median rate of a few decodes of one block's worth of values, at most 128 MiB, timed by events."""
    largest = max(cut.segments, key=lambda segment: (segment.is_block, segment.nbytes))
    nbytes = min(largest.nbytes, _DECODED)
    values = torch.empty(nbytes // largest.dtype.itemsize, dtype=torch.float32, device=device).normal_(std=0.02)
    plain = values.to(largest.dtype).view(torch.uint8)
    decode = codec.decoder(codec.encode(plain, largest.dtype), plain, largest.dtype)
    taken = []
    with torch.cuda.stream(codec.stream):
        for _ in range(_COPIES + 1):
            start = _record()
            decode()
            end = _record()
            end.synchronize()
            taken.append(float(start.elapsed_time(end)) / 1e3)
    return nbytes / statistics.median(taken[1:])


def _copy_seconds(device: torch.device, nbytes: int) -> float:
    """Return the median of a few copies from pinned memory, timed by events."""
    arena = HostArena(nbytes, pinned=True)
    there = torch.empty(nbytes, dtype=torch.uint8, device=device)
    taken = []
    for _ in range(_COPIES + 1):
        start = _record()
        there.copy_(arena.buffer, non_blocking=True)
        end = _record()
        end.synchronize()
        taken.append(float(start.elapsed_time(end)) / 1e3)
    arena.close()
    return statistics.median(taken[1:])
