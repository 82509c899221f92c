"""Where streamed weights lie in host memory that travel as they are: in the files that store them, or in a copy.

A segment is cut into runs: bytes that lie end to end both in the segment and in one file, or in memory of the engine's
own. One copy moves a run. Segments are packed in the order of the file (`order_by_file`), so that a decoder block is
one run most often. What cannot stay in its file is copied into one block of pinned memory, and the reason is kept:

- the weights come from no file (random ones, a module's), or transformers computes them from what is stored;
- they are stored in another data type than they are used in;
- the run is so short that its copy would cost more time than its bytes;
- the file cannot be mapped, or CUDA cannot register it;
- copies from the file's addresses are slower. Weights begin at multiples of 8 bytes in a safetensors file. How much a
  copy engine minds is up to the machine, so it is measured.
"""

from __future__ import annotations

import mmap
import statistics
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from djinn_checks.engine.host_memory import HostArena
from djinn_checks.engine.mapped_files import MappedFile, Stretch, cut_pages, map_file
from djinn_checks.engine.registration import Chunk, Place, Registration
from djinn_checks.engine.segments import ALIGNMENT, Order, PackedTensor, Segment, Weights
from djinn_checks.units import GB, MIB

IN_NO_FILE = "not stored in a file as they are used"
ANOTHER_TYPE = "stored in another data type, or in pieces"
TOO_SHORT = "too short for copies of their own"
_LEAST_SHARE = 1 / 64
"""A run that is a smaller part of its segment is no copy of its own: each costs some microseconds beside its bytes."""


_LINE = 64
"""Bytes that memory is read by: a copy that begins at a multiple of it is the fastest."""
_SLOWER = 0.02
"""An H200 copies at 54.7 GB/s from odd multiples of 8 bytes, in place of 55.4; a ring keeps 0.995 of its pace."""
_TIMED, _TIMES = 64 * MIB, 6
"""Bytes of a copy that is timed, and how often; the first time does not count."""

TimeCopy = Callable[[Tensor, Tensor], float]
"""From (place, host bytes) to the seconds that a copy takes."""


def time_copy(place: Tensor, host: Tensor) -> float:
    """Return the seconds of one copy to a CUDA device, by events on the current stream, and wait for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    place.copy_(host, non_blocking=True)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


class LiesAt(Protocol):
    """Where the bytes of one weight lie in a file, contiguous and in the weight's own data type."""

    @property
    def path(self) -> Path: ...

    @property
    def offset(self) -> int:
        """Bytes from the start of the file."""
        ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Run:
    """Tensors of a segment, one behind the other, that one copy moves."""

    tensors: tuple[PackedTensor, ...]
    path: Path | None
    """The file that they lie in, end to end; None: they are copied to memory of the engine's own."""
    start: int = 0
    """Bytes from the start of the file."""
    why: str = ""
    """Why they do not stay in a file."""

    @property
    def offset(self) -> int:
        """Bytes from the start of the segment."""
        return self.tensors[0].offset

    @property
    def nbytes(self) -> int:
        """Bytes that are moved. In memory of its own a tensor is filled up to the next one, in a file it is not."""
        last = self.tensors[-1]
        return last.offset - self.offset + (last.nbytes if self.path is not None else _whole(last.nbytes))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one copy moves, and where it lies."""

    offset: int
    """Bytes from the start of the segment."""
    host: Tensor
    """1-d uint8. Not to be written to: it may be a file."""
    chunk: Chunk | None = None
    """Is to be registered before a copy reads it; None: it may be read."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """So many streamed bytes that lie in one place, and why there."""

    where: str
    nbytes: int
    why: str

    def __str__(self) -> str:
        return f"{self.nbytes:,} bytes {self.where}: {self.why}"


class HostWeights:
    """Streamed segments of one model, each as pieces that lie in host memory.

    Attributes:
        pieces: of each segment, in the order of their offsets; together they are the whole segment.
        sources: where they lie, and why.
    """

    def __init__(
        self,
        segments: Mapping[int, Segment],
        weights: Weights,
        *,
        pinned: bool,
        scratch: Tensor | None = None,
        time_copy: TimeCopy = time_copy,
    ) -> None:
        """Map the files, and copy what does not stay in them.

        Args:
            scratch: memory of the device (1-d uint8) to time copies into; None: they are not timed.
            time_copy: gives the seconds of a copy.

        Raises:
            EngineError: a weight is missing, has another shape or dtype, or memory cannot be had.
        """
        self._files: dict[Path, MappedFile] = {}
        self._registration = Registration() if pinned else None
        if self._registration is not None:  # what is dropped and not closed lets go of its files, too
            weakref.finalize(self, self._registration.let_go)
        self._scratch, self._time_copy = scratch, time_copy
        runs = self._map({index: find_runs(segment, weights) for index, segment in segments.items()})
        self._arena = HostArena(
            sum(run.nbytes for found in runs.values() for run in found if run.path is None), pinned=pinned
        )
        self._free = self._arena.buffer
        self.pieces = {
            index: tuple(piece for run in found for piece in self._cut(run, weights)) for index, found in runs.items()
        }
        self.sources = describe_sources(run for found in runs.values() for run in found)

    @property
    def own_bytes(self) -> int:
        """Bytes of host memory taken for them; what lies in files is the page cache's."""
        return self._arena.nbytes

    def whole(self, segment: int) -> Tensor:
        """Return the bytes of a segment (1-d uint8); a copy, if they lie in several places or in a file."""
        pieces = self.pieces[segment]
        if len(pieces) == 1 and not self._files:
            return pieces[0].host
        whole = torch.zeros(max(_whole(piece.offset + piece.host.numel()) for piece in pieces), dtype=torch.uint8)
        for piece in pieces:
            whole[piece.offset :][: piece.host.numel()] = piece.host
        return whole

    def wait(self, segment: int) -> None:
        """Return when copies may read a segment: its pages are registered, or that has failed."""
        for piece in self.pieces[segment]:
            if piece.chunk is not None and self._registration is not None:
                self._registration.need(piece.chunk)

    def register_rest(self) -> None:
        """Begin to register what no copy has needed yet, and wait for nothing."""
        if self._registration is not None:
            self._registration.begin()

    def close(self) -> None:
        """Let go of memory and files."""
        self.pieces, self._free = {}, torch.empty(0, dtype=torch.uint8)
        if self._registration is not None:
            self._registration.close()
        for file in self._files.values():
            file.close()
        self._files = {}
        self._arena.close()

    def _map(self, runs: dict[int, list[Run]]) -> dict[int, list[Run]]:
        """Map the files that runs lie in and register some pages of each; return the runs, those of a file that is
        refused without it."""
        order: list[Place] = []
        stretches: dict[Path, list[Stretch]] = {}
        for run in (run for found in runs.values() for run in found):
            if run.path is not None:
                order.append((run.path, Stretch(run.start, run.start + run.nbytes)))
                stretches.setdefault(run.path, []).append(order[-1][1])
        opened = {path: self._open(path, needed) for path, needed in stretches.items()}
        refused = {path: done for path, done in opened.items() if isinstance(done, str)}
        if self._registration is not None:
            first = [(self._files[path], done) for path, done in opened.items() if isinstance(done, Stretch)]
            self._registration.plan(first, [place for place in order if place[0] not in refused])
        return {
            index: _join([replace(r, path=None, why=refused[r.path]) if r.path in refused else r for r in found])
            for index, found in runs.items()
        }

    def _open(self, path: Path, stretches: Sequence[Stretch]) -> Stretch | str:
        """Map a file, register some of its pages and return them, or why that cannot be done."""
        try:
            file = map_file(path)
        except (OSError, ValueError) as error:
            return f"{path.name} cannot be mapped ({error})"
        if max(stretch.end for stretch in stretches) > file.buffer.numel():
            return f"{path.name} was cut short"
        first = choose_first(cut_pages(stretches), stretches)
        why = (file.lock(first) if self._registration is not None else "") or self._time(file, first, stretches)
        if why:
            file.close()
            return why
        self._files[path] = file
        return first

    def _time(self, file: MappedFile, pages: Stretch, stretches: Sequence[Stretch]) -> str:
        """Return by how much copies from odd addresses among some pages are slower; empty if they are not, or there
        are none."""
        there = [Stretch(max(s.start, pages.start), min(s.end, pages.end)) for s in stretches]
        odd = max((s for s in there if s.start % _LINE), key=lambda s: s.end - s.start, default=None)
        if self._scratch is None or odd is None:
            return ""
        even = -(-odd.start // mmap.PAGESIZE) * mmap.PAGESIZE
        nbytes = min(_TIMED, self._scratch.numel(), odd.end - even)
        if nbytes < _TIMED // 8:
            return ""
        place = self._scratch[:nbytes]
        seconds = [
            [self._time_copy(place, file.buffer[start:][:nbytes]) for start in (odd.start, even)] for _ in range(_TIMES)
        ]
        slow, fast = (statistics.median(column) for column in zip(*seconds[1:], strict=True))
        if slow <= (1 + _SLOWER) * fast:
            return ""
        rates = f"{nbytes / slow / GB:.1f} GB/s in place of {nbytes / fast / GB:.1f}"
        return f"copies from where {file.path.name} has them reach {rates}"

    def _cut(self, run: Run, weights: Weights) -> list[Piece]:
        """Return a run as pieces: one, or in a file as many as it has chunks that are registered by one call."""
        if run.path is None:
            host, self._free = self._free[: run.nbytes], self._free[run.nbytes :]
            for tensor in run.tensors:
                replace(tensor, offset=tensor.offset - run.offset).read(host, weights)
            return [Piece(offset=run.offset, host=host)]
        whole, buffer = Stretch(run.start, run.start + run.nbytes), self._files[run.path].buffer
        parts = self._registration.cut(run.path, whole) if self._registration is not None else [(whole, None)]
        return [
            Piece(offset=run.offset + part.start - run.start, host=buffer[part.start : part.end], chunk=chunk)
            for part, chunk in parts
        ]


def choose_first(chunks: Sequence[Stretch], stretches: Sequence[Stretch]) -> Stretch:
    """Return the chunk to register first: one in which copies from an odd address can be timed, if there is one."""

    def odd_bytes(chunk: Stretch) -> int:
        odd = (s for s in stretches if s.start % _LINE and chunk.start <= s.start < chunk.end)
        return max((min(s.end, chunk.end) - s.start for s in odd), default=0)

    return next((chunk for chunk in chunks if odd_bytes(chunk) > _TIMED // 8 + mmap.PAGESIZE), chunks[0])


def find_runs(segment: Segment, weights: Weights, *, least_share: float = _LEAST_SHARE) -> list[Run]:
    """Return the runs of a segment, in the order in which it is packed.

    Args:
        least_share: of the segment's bytes that a run has at the least to be one of a file.

    Raises:
        EngineError: a weight is missing.
    """
    runs = _join([_run_of(tensor, weights) for tensor in segment.tensors])
    least = least_share * segment.nbytes
    return _join([replace(run, path=None, why=TOO_SHORT) if run.path and run.nbytes < least else run for run in runs])


def order_by_file(weights: object) -> Order:
    """Return the order in which a segment's parameters lie end to end as they do in files.

    What lies in no file, and what would be a run of its own for being short, comes last.
    """

    def order(tensors: Sequence[PackedTensor]) -> Sequence[PackedTensor]:
        if not isinstance(weights, Mapping) or not hasattr(weights, "lies_at"):
            return tensors
        places = {id(tensor): _lies_at(tensor, weights) for tensor in tensors}
        stored = [(place.path, place.offset, n) for n, t in enumerate(tensors) if (place := places[id(t)]) is not None]
        in_file = [tensors[n] for _, _, n in sorted(stored)]
        runs = _join([_run_of(tensor, weights) for tensor in _packed(in_file)])
        least = _LEAST_SHARE * sum(_whole(tensor.nbytes) for tensor in tensors)
        long = [tensor for run in runs if run.nbytes >= least for tensor in run.tensors]
        kept = {tensor.names for tensor in long}
        return [*long, *(tensor for tensor in tensors if tensor.names not in kept)]

    return order


def foresee_sources(segments: Iterable[Segment], weights: Weights, *, pinned: bool) -> tuple[Source, ...]:
    """Return where streamed segments would lie: each file is mapped, and a page of it registered, to see if that works.

    Raises:
        EngineError: a weight is missing.
    """
    runs = [run for segment in segments for run in find_runs(segment, weights)]
    refused = {path: why for path in {run.path for run in runs if run.path} if (why := _try(path, pinned=pinned))}
    return describe_sources(replace(r, path=None, why=refused[r.path]) if r.path in refused else r for r in runs)


def _try(path: Path, *, pinned: bool) -> str:
    """Return why a file cannot be streamed from; empty if it can."""
    try:
        file = map_file(path)
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be mapped ({error})"
    why = file.register([Stretch(0, 1)]) if pinned else ""
    file.close()
    return why


def describe_sources(runs: Iterable[Run]) -> tuple[Source, ...]:
    """Return how many bytes lie where, and why, the most first."""
    nbytes: dict[tuple[str, str], int] = {}
    for run in runs:
        key = (f"in {run.path.name}", "streamed where they lie") if run.path else ("in memory of their own", run.why)
        nbytes[key] = nbytes.get(key, 0) + run.nbytes
    return tuple(
        Source(where=where, nbytes=count, why=why)
        for (where, why), count in sorted(nbytes.items(), key=lambda entry: -entry[1])
    )


def _run_of(tensor: PackedTensor, weights: Weights) -> Run:
    if not hasattr(weights, "lies_at"):
        tensor.name_in(weights)
        return Run(tensors=(tensor,), path=None, why=IN_NO_FILE)
    place = _lies_at(tensor, weights)
    if place is None:
        return Run(tensors=(tensor,), path=None, why=ANOTHER_TYPE)
    return Run(tensors=(tensor,), path=place.path, start=place.offset)


def _lies_at(tensor: PackedTensor, weights: Weights) -> LiesAt | None:
    place: LiesAt | None = weights.lies_at(tensor.name_in(weights))  # type: ignore[attr-defined]
    is_dense = tensor.stride == torch.empty(tensor.shape, device="meta").stride()
    return place if place is not None and is_dense and place.nbytes == tensor.nbytes > 0 else None


def _packed(tensors: Iterable[PackedTensor]) -> list[PackedTensor]:
    """Return the tensors as they would lie in a segment of their own."""
    placed, offset = [], 0
    for tensor in tensors:
        placed.append(replace(tensor, offset=offset))
        offset += _whole(tensor.nbytes)
    return placed


def _join(runs: Iterable[Run]) -> list[Run]:
    """Join runs that follow each other: in memory of their own, or end to end in one file."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last is not None and _follows(last, run):
            why = last.why if last.nbytes >= run.nbytes else run.why
            joined[-1] = replace(last, tensors=(*last.tensors, *run.tensors), why=why)
        else:
            joined.append(run)
    return joined


def _follows(last: Run, run: Run) -> bool:
    if last.path is None or run.path is None:
        return last.path is run.path
    in_segment = run.offset == last.offset + last.nbytes
    return in_segment and run.path == last.path and run.start == last.start + last.nbytes


def _whole(nbytes: int) -> int:
    return max(1, -(-nbytes // ALIGNMENT)) * ALIGNMENT
