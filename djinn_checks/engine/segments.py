"""How a module's parameters are packed for streaming: segments, and the points where they are needed.

A *segment* is what one copy moves: the parameters of one decoder block, of one module outside the
blocks, or one parameter that several of these share (tied embeddings). A *point* is a module whose
forward needs segments: they must be in place before it runs and may be overwritten after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from djinn_checks.errors import EngineError
from djinn_checks.layers import decoder_blocks

ALIGNMENT = 512
"""Bytes to which a tensor is aligned in its segment: what PyTorch's CUDA allocator gives, so that a matrix
kernel chosen by alignment is the same for a streamed and a resident weight."""

Weights = Mapping[str, torch.Tensor]
"""From qualified names of parameters to their values; it may be lazy."""


@dataclass(frozen=True, kw_only=True)
class PackedTensor:
    """Where one parameter lies in its segment."""

    names: tuple[str, ...]
    """Every qualified name of the parameter; several if it is tied."""
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    offset: int
    """Bytes from the start of the segment, a multiple of ALIGNMENT."""
    nbytes: int

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return this parameter as a view of its segment's bytes.

        Args:
            buffer: 1-d uint8 tensor that starts where the segment starts, at a multiple of ALIGNMENT.
        """
        words = buffer[self.offset : self.offset + self.nbytes].view(self.dtype)
        return words.as_strided(self.shape, self.stride)

    def name_in(self, weights: Weights) -> str:
        """Return the name under which a mapping has this parameter.

        Raises:
            EngineError: it has none.
        """
        name = next((name for name in self.names if name in weights), None)
        if name is None:
            raise EngineError(f"weight {self.names[0]!r} is not among the registered weights")
        return name

    def read(self, place: torch.Tensor, weights: Weights) -> None:
        """Copy this parameter into its segment's `place`, from one access to the mapping.

        Raises:
            EngineError: it is missing, or has another shape or dtype than the module's.
        """
        name = self.name_in(weights)
        value = weights[name]
        if value.shape != self.shape or value.dtype != self.dtype:
            raise EngineError(
                f"weight {name!r}: the module has {tuple(self.shape)} {self.dtype}, "
                f"the registered weights have {tuple(value.shape)} {value.dtype}"
            )
        self.view(place).copy_(value)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Parameters that move together, as one contiguous copy."""

    name: str
    tensors: tuple[PackedTensor, ...]
    nbytes: int
    is_block: bool

    @property
    def dtype(self) -> torch.dtype:
        """The data type of most of its bytes."""
        nbytes: dict[torch.dtype, int] = {}
        for tensor in self.tensors:
            nbytes[tensor.dtype] = nbytes.get(tensor.dtype, 0) + tensor.nbytes
        return max(nbytes, key=lambda dtype: nbytes[dtype])

    def read(self, place: torch.Tensor, weights: Weights) -> None:
        """Copy this segment's weights into `place` (1-d uint8 of `nbytes`), each from one access to the mapping.

        Raises:
            EngineError: a weight is missing, or has another shape or dtype than the module's.
        """
        for tensor in self.tensors:
            tensor.read(place, weights)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A module and the segments that its forward needs, by index into `Cut.segments`."""

    name: str
    segments: tuple[int, ...]
    spans_blocks: bool
    """The module encloses decoder blocks, so its segments are needed while those stream."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A module cut into segments, and its points in the order in which a forward reaches them."""

    segments: tuple[Segment, ...]
    points: tuple[Point, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all segments, alignment included."""
        return sum(segment.nbytes for segment in self.segments)


Order = Callable[[Sequence[PackedTensor]], Sequence[PackedTensor]]
"""Gives the order in which the parameters of a segment are packed; their offsets do not count yet."""


def cut_model(
    model: nn.Module,
    visits: Sequence[str] = (),
    readers: Mapping[str, str] | None = None,
    *,
    order: Order = tuple,
) -> Cut:
    """Cut a causal language model into segments and points. Reads shapes only, so `meta` will do.

    The order of the points is embeddings, then decoder blocks, then everything else, as in every causal
    LM of Hugging Face. A model that runs in another order still gets the right weights, only slower.

    Args:
        visits: names of modules in the order in which a forward reaches them, where that is known: what is outside the
            blocks comes in that order, before them or after them.
        readers: from a module whose parameters are read while it does not run, to the one that runs then; they are
            needed by both.
        order: of the parameters in a segment; as given, that of the module.
    """
    points = _point_modules(model, visits, readers or {})
    names = _names_by_parameter(model)
    users: dict[int, list[int]] = {}
    for index, (_, _, parameters) in enumerate(points):
        for parameter in parameters:
            users.setdefault(id(parameter), []).append(index)

    segments: list[Segment] = []
    needs: list[list[int]] = [[] for _ in points]
    block_names = {name for name, _ in decoder_blocks(model)}
    for index, (name, _, parameters) in enumerate(points):
        own = [parameter for parameter in parameters if users[id(parameter)] == [index]]
        if own:
            needs[index].append(len(segments))
            segments.append(_pack(name, own, names, order, is_block=name in block_names))
        for parameter in parameters:
            sharers = users[id(parameter)]
            if len(sharers) > 1 and sharers[0] == index:
                for sharer in sharers:
                    needs[sharer].append(len(segments))
                segments.append(_pack(names[id(parameter)][0], [parameter], names, order, is_block=False))
    return Cut(
        segments=tuple(segments),
        points=tuple(
            Point(name=name, segments=tuple(need), spans_blocks=any(_encloses(name, block) for block in block_names))
            for (name, _, _), need in zip(points, needs, strict=True)
        ),
    )


def _point_modules(
    model: nn.Module, visits: Sequence[str], readers: Mapping[str, str]
) -> list[tuple[str, nn.Module, list[nn.Parameter]]]:
    blocks = [(name, block, list(block.parameters())) for name, block in decoder_blocks(model)]
    prefixes = tuple(f"{name}." for name, _, _ in blocks)
    outer = [
        (name, module, [*module.parameters(recurse=False), *_reached_for(name, model, readers)])
        for name, module in model.named_modules()
        if not f"{name}.".startswith(prefixes or ("\0",))
    ]
    outer = [point for point in outer if point[2]]
    embeddings = [point for point in outer if isinstance(point[1], nn.Embedding)]
    rest = [point for point in outer if not isinstance(point[1], nn.Embedding)]
    reached = {name: place for place, name in reversed([*enumerate(visits)])}
    start = min((reached[name] for name, _, _ in blocks if name in reached), default=0)

    def when(point: tuple[str, nn.Module, list[nn.Parameter]]) -> float:
        return reached.get(point[0], math.inf)

    early = sorted((point for point in rest if when(point) < start), key=when)
    late = sorted((point for point in rest if when(point) >= start), key=when)
    return sorted(embeddings, key=when) + early + [block for block in blocks if block[2]] + late


def _reached_for(reader: str, model: nn.Module, readers: Mapping[str, str]) -> list[nn.Parameter]:
    """Return the parameters that a module reads while the one that has them does not run."""
    held = [model.get_submodule(name) for name, by in readers.items() if by == reader]
    return [parameter for module in held for parameter in module.parameters(recurse=False)]


def _names_by_parameter(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _pack(
    name: str, parameters: Iterable[nn.Parameter], names: dict[int, list[str]], order: Order, *, is_block: bool
) -> Segment:
    tensors, offset = [], 0
    for tensor in order([_describe(parameter, names[id(parameter)]) for parameter in parameters]):
        tensors.append(replace(tensor, offset=offset))
        offset += max(1, -(-tensor.nbytes // ALIGNMENT)) * ALIGNMENT
    return Segment(name=name, tensors=tuple(tensors), nbytes=offset, is_block=is_block)


def _describe(parameter: nn.Parameter, names: Sequence[str]) -> PackedTensor:
    dense = _is_dense(parameter)
    return PackedTensor(
        names=tuple(names),
        shape=parameter.shape,
        stride=parameter.stride() if dense else torch.empty(parameter.shape, device="meta").stride(),
        dtype=parameter.dtype,
        offset=0,
        nbytes=parameter.numel() * parameter.element_size(),
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether the elements fill their memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    for size, stride in sorted(zip(tensor.shape, tensor.stride(), strict=True), key=lambda pair: pair[1]):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def _encloses(outer: str, inner: str) -> bool:
    return outer == "" or inner.startswith(f"{outer}.")
