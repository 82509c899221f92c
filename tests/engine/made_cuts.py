"""Cuts of models that there are not, with segments of the sizes a test needs."""

from __future__ import annotations

import torch

from djinn_checks.engine.segments import ALIGNMENT, Cut, PackedTensor, Point, Segment


def make_cut(blocks: list[int], outer: list[int] | None = None, *, tied: bool = False) -> Cut:
    """Build a cut of blocks and outer segments with sizes in units of ALIGNMENT; `tied` reuses the first outer last."""
    outer = outer or []
    segments = [_segment(f"outer{i}", size, False) for i, size in enumerate(outer)]
    segments += [_segment(f"block{i}", size, True) for i, size in enumerate(blocks)]
    points = [Point(name=s.name, segments=(i,), spans_blocks=False) for i, s in enumerate(segments)]
    if tied:
        points.append(Point(name="head", segments=(0,), spans_blocks=False))
    return Cut(segments=tuple(segments), points=tuple(points))


def _segment(name: str, size: int, is_block: bool) -> Segment:
    nbytes = size * ALIGNMENT
    tensor = PackedTensor(
        names=(f"{name}.weight",), shape=torch.Size([nbytes]), stride=(1,), dtype=torch.uint8, offset=0, nbytes=nbytes
    )
    return Segment(name=name, tensors=(tensor,), nbytes=nbytes, is_block=is_block)
