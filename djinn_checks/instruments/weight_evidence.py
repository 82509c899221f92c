"""What a watched forward shows of the weights: which were used, right or wrong, and how much memory held them."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor

from djinn_checks.instruments.held_memory import HeldMemory
from djinn_checks.instruments.memory_place import Place


@dataclass(frozen=True, kw_only=True)
class WeightEvidence:
    """What was seen of the weights in one forward."""

    weights: tuple[str, ...]
    """Qualified names of the parameters that were used, sorted."""
    used_bytes: int
    """Bytes of the weights that were used; weights with equal bytes count once."""
    exact_bytes: int
    """The part of `used_bytes` that equals a weight of the reference bit for bit."""
    distinct_bytes: int
    """Most bytes of device memory that held used weights at one moment (`held_memory`). Only the weights' own bytes
    count, so padding that an engine puts between them adds nothing."""
    distinct_bytes_at_least: int
    """The same if all memory was given back that may have been; less only where nobody can tell."""
    host_bytes: int = 0
    """The part of `exact_bytes` that was used where it lies in host memory, and from nowhere else."""
    different: tuple[str, ...]
    """Names whose bytes at a point of use were not those of the reference, sorted."""
    bytes_of: Mapping[str, str] = field(default_factory=dict)
    """Of those, the name of the reference's weight whose bytes they were, where there is one."""
    unknown: tuple[str, ...]
    """Names that the reference does not have, with bytes that it does not have either, sorted."""
    unseen: tuple[str, ...]
    """Names that the reference used and whose bytes were never seen in use here, sorted."""
    every_use_bytes: int
    """Bytes of the weights, each use counted for itself: what was moved anew for every use is at most this."""
    contents: Mapping[str, tuple[int, int]]
    """Name to (digest, bytes); of a weight that was found both right and wrong, the wrong digest."""
    shapes: Mapping[str, tuple[int, ...]]
    """Name to shape."""
    experts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Name to the digests of its parts, of weights that hold all experts of a layer, one behind the other."""
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    """Name to data type."""

    @property
    def moved_bytes_lower_bound(self) -> int:
        """Bytes that were certainly written from one forward to the next (see `weight_witness`)."""
        return max(0, self.exact_bytes - self.host_bytes - self.distinct_bytes)

    @property
    def moved_bytes_if_given_back(self) -> int:
        """The same if all memory was given back that may have been."""
        return max(0, self.exact_bytes - self.host_bytes - self.distinct_bytes_at_least)

    @property
    def complete(self) -> bool:
        """Whether every weight that the reference used was seen here, right or wrong."""
        return not self.unseen

    def bytes_without(self, names: Collection[str]) -> int:
        """Return `used_bytes` as it would be without the weights of these names."""
        return sum(dict(content for name, content in self.contents.items() if name not in names).values())


@dataclass(frozen=True)
class Part:
    """A range of rows of a fused weight."""

    start: int
    rows: int
    nbytes: int
    digest: Tensor


class How(IntEnum):
    """What was done with a weight. Of the same weight only what is the most counts."""

    GIVEN = 0
    """A function got it that may have looked at it only, or written to it."""
    VIEW = 1
    """The module that runs took a part of it, or another view of it."""
    ARITHMETIC = 2


@dataclass(frozen=True)
class Use:
    """A weight, or what may be one, at the moment it was used."""

    number: int
    name: str
    """As the running module calls it; empty: no running module has it, and its content has to speak."""
    place: Place
    nbytes: int
    shape: tuple[int, ...]
    digest: Tensor
    parts: tuple[Part, ...] = ()
    """Ranges that may be weights of the reference, if several are fused in one."""
    dtype: torch.dtype = torch.float32
    how: How = How.ARITHMETIC
    experts: Tensor | None = None
    """int64 [E], digests of its parts."""
    address: int = 0
    call: int = 0
    """Of a module, in which it was."""
    is_proxy: bool = False
    """Its class, or a mode of the system's own, may use another tensor in its place."""


@dataclass(frozen=True)
class _Seen:
    """A use whose digest was read."""

    use: Use
    name: str
    value: int
    nbytes: int
    shape: tuple[int, ...]
    experts: tuple[int, ...] = ()

    @property
    def how(self) -> How:
        return self.use.how


def gather_evidence(uses: Sequence[Use], reference: WeightEvidence | None, held: HeldMemory) -> WeightEvidence | None:
    """Return what the uses amount to; None if none of them was a weight.

    Args:
        reference: the same forward of the resident model; without it, every weight counts as exact.
        held: followed the memory of these uses.
    """
    known = _Known(reference)
    every = [found for found in _read(uses, known.values) if known.counts(found)]
    seen = known.choose(every)
    if not seen:
        return None
    named: dict[str, dict[str, _Seen]] = {"exact": {}, "different": {}, "unknown": {}}
    exact: set[int] = set()
    for found in seen:
        verdict, name = known.verdict(found)
        if verdict == "exact":  # blocks that are called one by one call their weights by the same names
            exact.add(found.value)
            name = name if named[verdict].get(name, found).value == found.value else f"{name} ({found.use.number})"
        named[verdict][name] = found
    sizes = {found.value: found.nbytes for found in seen}
    most, least = held.bytes_of({found.use.number for found in every})
    on_device = {found.value for found in seen if found.use.place == "device"}
    at_once = {(found.use.call, found.use.address, found.value): found.nbytes for found in seen}
    by_name = {name: found for of_verdict in named.values() for name, found in of_verdict.items()}
    return WeightEvidence(
        weights=tuple(sorted(by_name)),
        used_bytes=sum(sizes.values()),
        exact_bytes=sum(sizes[value] for value in exact),
        distinct_bytes=most,
        distinct_bytes_at_least=least,
        host_bytes=sum(sizes[value] for value in exact - on_device),
        different=tuple(sorted(named["different"])),
        bytes_of={name: known.names[use.value] for name, use in named["different"].items() if use.value in known.names},
        unknown=tuple(sorted(named["unknown"])),
        unseen=known.unseen(exact, named["different"]),
        every_use_bytes=sum(at_once.values()),
        contents={name: (found.value, found.nbytes) for name, found in by_name.items()},
        shapes={name: found.shape for name, found in by_name.items()},
        experts={name: found.experts for name, found in by_name.items() if found.experts},
        dtypes={name: found.use.dtype for name, found in by_name.items()},
    )


class _Known:
    """The reference's weights, by name and by content. Without a reference every named weight is exact."""

    def __init__(self, reference: WeightEvidence | None) -> None:
        self._contents = reference.contents if reference else {}
        self._shapes = reference.shapes if reference else {}
        self._dtypes = reference.dtypes if reference else {}
        self._experts = reference.experts if reference else {}
        self._anything = reference is None
        self._open_groups: set[str] = set()
        self.values = {value for value, _ in self._contents.values()}
        self.names: dict[int, str] = {}
        for name, (value, _) in self._contents.items():
            self.names.setdefault(value, name)

    def counts(self, found: _Seen) -> bool:
        """Tell a use that says something: by its bytes, or by its name if it is what was used."""
        is_named = bool(found.name) and (self._anything or not found.use.is_proxy)
        return is_named or found.value in self.values

    def choose(self, seen: Sequence[_Seen]) -> list[_Seen]:
        """Leave out what was done with a weight beside what is the most, and what was none if it was used elsewhere:
        there it may have been put in another form. Of functions that were given it, a right one counts."""
        self._find_open_groups([found for found in seen if found.how > How.GIVEN])
        used = {found.value for found in seen if found.how is How.ARITHMETIC}
        most: dict[str, How] = {}
        for found in seen:
            most[found.name] = max(most.get(found.name, How.GIVEN), found.how)
        right = {found.name for found in seen if self.verdict(found)[0] == "exact"}
        return [
            found
            for found in seen
            if found.how is How.ARITHMETIC
            or (
                found.how is most[found.name]
                and self._own_value(found.name) not in used
                and (found.how is How.VIEW or found.name not in right or self.verdict(found)[0] == "exact")
            )
        ]

    def _known_as(self, name: str) -> str | None:
        """Return the reference's name of a weight, which a wrapper may have put a prefix to; None if it has none."""
        while name not in self._contents:
            _, dot, name = name.partition(".")
            if not dot:
                return None
        return name

    def _own_value(self, name: str) -> int | None:
        known_as = self._known_as(name)
        return None if known_as is None else self._contents[known_as][0]

    def _find_open_groups(self, seen: Iterable[_Seen]) -> None:
        """Find the weights whose names do not tell which layer's they are, as one module serves several layers: those
        like one that was used and whose name was never called."""
        called = {self._known_as(found.name) for found in seen if found.name}
        values = {found.value for found in seen}
        self._open_groups = {_group(of) for value, of in self.names.items() if value in values and of not in called}

    def verdict(self, found: _Seen) -> tuple[str, str]:
        """Return exact, different or unknown, and the reference's name of the weight if it has one."""
        known_as, of = self._known_as(found.name), self.names.get(found.value)
        if known_as is None:
            return self._verdict_by_content(found)
        if self._contents[known_as][0] == found.value:
            return "exact", known_as
        is_its_form = found.shape == self._shapes[known_as] and found.use.dtype is self._dtypes.get(
            known_as, found.use.dtype
        )
        if of is not None and (not is_its_form or _group(of) in self._open_groups):
            return "exact", of
        if not is_its_form:  # what it is in a form of the system's own, its name does not say
            return "unknown", found.name
        experts = zip(found.experts, self._experts.get(known_as, ()), strict=False)
        if any(own == of_reference for own, of_reference in experts):  # others may be what no token was routed to
            return "unknown", found.name
        return "different", known_as

    def _verdict_by_content(self, found: _Seen) -> tuple[str, str]:
        if found.value not in self.values:
            return ("exact" if self._anything else "unknown"), found.name
        is_part_of_a_name = not found.name or any(name.endswith(f".{found.name}") for name in self._contents)
        return "exact", self.names[found.value] if is_part_of_a_name else found.name

    def unseen(self, exact: set[int], different: Collection[str]) -> tuple[str, ...]:
        """Return the names whose bytes were not seen in use, neither right nor wrong."""
        missing = (name for name, (value, _) in self._contents.items() if value not in exact and name not in different)
        return tuple(sorted(missing))


def _group(name: str) -> str:
    """Return a weight's name without its numbers: it is that of its like in all layers."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


def _read(uses: Sequence[Use], known: Collection[int]) -> list[_Seen]:
    """Read the digests with one transfer a device; a fused weight becomes its parts, if they are known."""
    parts = [part for use in uses for part in use.parts]
    experts = [digest for use in uses if use.experts is not None for digest in use.experts]
    values = _to_host([use.digest for use in uses] + [part.digest for part in parts] + experts)
    of_parts, of_experts = iter(values[len(uses) :]), iter(values[len(uses) + len(parts) :])
    seen = []
    for use, value in zip(uses, values, strict=False):
        found = {(part.start, part.rows): (part, next(of_parts)) for part in use.parts}
        fitting = {place: pair for place, pair in found.items() if pair[1] in known}
        cover = [] if value in known else _cover(fitting, use.shape[0] if use.shape else 0)
        pairs = [fitting[place] for place in cover]
        seen += [_Seen(use, "", at, part.nbytes, (part.rows, *use.shape[1:])) for part, at in pairs]
        each = tuple(itertools.islice(of_experts, len(use.experts) if use.experts is not None else 0))
        if not cover:
            seen.append(_Seen(use, use.name, value, use.nbytes, use.shape, each))
    return seen


def _cover(places: Collection[tuple[int, int]], rows: int, start: int = 0) -> list[tuple[int, int]]:
    """Return ranges (start, rows) that lie end to end from `start` to `rows`; empty if there are none such."""
    for place in places:
        if place[0] != start:
            continue
        end = start + place[1]
        rest = [] if end == rows else _cover(places, rows, end)
        if end == rows or rest:
            return [place, *rest]
    return []


def _to_host(digests: list[Tensor]) -> list[int]:
    """Read 0-d digests with one transfer a device."""
    values: dict[int, int] = {}
    for device in {value.device for value in digests}:
        places = [place for place, value in enumerate(digests) if value.device == device]
        read = torch.stack([digests[place] for place in places]).tolist()
        values.update(zip(places, read, strict=True))
    return [values[place] for place in range(len(digests))]
