"""Which segments stay on the device, and where the others land in the ring.

The budget is split once, before any weight is read: resident segments first, the ring after them. Every
streamed segment gets a fixed place in the ring from a skip-end allocator: segments are laid one after
the other, and one that would cross the end starts again at 0, so none is ever split. Fixed places mean
that parameters are bound to memory once, and that the hot path only orders copies.

Resident blocks are spread evenly among the streamed ones. If they ran one after the other, the link would
stand idle while they compute.

Segments that travel encoded land first, in a zone after the ring, and are decoded from there into their places. Copies
run ahead into the zone, where a segment takes less room than in the ring. So the ring is no larger than it must be,
and the zone gets the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from djinn_checks.engine.segments import ALIGNMENT, Cut, Segment
from djinn_checks.errors import CapacityError
from djinn_checks.units import format_bytes


@dataclass(frozen=True, kw_only=True)
class Load:
    """One copy of the cycle that streams the model: which segment, to where, and after what."""

    segment: int
    offset: int
    """Bytes from the start of the ring."""
    nbytes: int
    blocker_distance: int
    """How many loads ago the last bytes came that this copy overwrites. It may start when they have been used."""


@dataclass(frozen=True, kw_only=True)
class Landing:
    """Where the encoded bytes of a load arrive, to be decoded into its place."""

    offset: int
    """Bytes from the start of the landing zone."""
    nbytes: int
    """Bytes that travel."""
    blocker_distance: int
    """How many loads ago the last bytes came that this copy overwrites. It may start when they have been decoded."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A residency plan. Sizes in bytes, alignment included."""

    resident: tuple[int, ...]
    """Segments that stay on the device, by index."""
    resident_offsets: tuple[int, ...]
    resident_bytes: int
    ring_bytes: int
    loads: tuple[Load, ...]
    """The cycle of copies that one forward needs; it repeats with every forward."""
    uses: tuple[tuple[int, int], ...]
    """(point, load) in the order of a forward. Neighbours with the same load share one copy."""
    landings: tuple[Landing, ...] = ()
    """One for each load; none if the loads are copied straight into their places."""
    landing_bytes: int = 0

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory in all."""
        return self.resident_bytes + self.ring_bytes + self.landing_bytes

    @property
    def wire_sizes(self) -> tuple[int, ...]:
        """Bytes that each load moves over the link."""
        return tuple(step.nbytes for step in self.landings or self.loads)

    @property
    def bytes_per_pass(self) -> int:
        """Bytes that one forward moves over the link.

        With a single load the cycle has one segment and nothing that could overwrite it: it stays.
        """
        return sum(self.wire_sizes) if len(self.loads) > 1 else 0

    @property
    def weight_bytes_per_pass(self) -> int:
        """Bytes of weights that one forward puts in place on the device: more than travel, if those are encoded."""
        return sum(load.nbytes for load in self.loads) if len(self.loads) > 1 else 0

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory that the streamed segments need."""
        sizes = zip(self.loads, self.wire_sizes, strict=True)
        return sum({load.segment: nbytes for load, nbytes in sizes}.values())


_ABOUT_THE_SAME = 0.95
"""Encoded segments that are longer than this share of the longest one get as much room as that one."""

Planner = Callable[[Cut, Sequence[int] | None], Plan]
"""Makes a plan for segments that have so many bytes on the wire; None: as many as in their places."""


def plan_residency(
    cut: Cut, capacity_bytes: int, *, resident_blocks: int | None = None, wire_bytes: Sequence[int] | None = None
) -> Plan:
    """Decide what stays resident within `capacity_bytes` and place the rest in the ring.

    Whatever leaves room for the two largest streamed segments may stay: first the small segments outside
    the blocks, then the larger ones (embeddings, head), then as many blocks as fit, evenly spread.

    Args:
        capacity_bytes: device memory for resident segments and ring together.
        resident_blocks: keep exactly this many decoder blocks, not as many as fit.
        wire_bytes: of each segment, how many bytes travel. None, or nothing streamed that has fewer than in its
            place: there is no landing zone.

    Raises:
        CapacityError: the two largest streamed segments do not fit beside what must stay, or the asked
            number of resident blocks does not fit, or is more than there are.
    """
    if cut.nbytes <= capacity_bytes and resident_blocks is None:
        return _build(cut, capacity_bytes, set(range(len(cut.segments))), None)
    resident = _must_stay(cut)
    outer = [i for i, segment in enumerate(cut.segments) if i not in resident and not segment.is_block]
    for index in sorted(outer, key=lambda i: cut.segments[i].nbytes):
        if _needed(cut, resident | {index}, wire_bytes) <= capacity_bytes:
            resident.add(index)
    blocks = [i for i, segment in enumerate(cut.segments) if segment.is_block]
    if resident_blocks is not None and resident_blocks > len(blocks):
        raise CapacityError(f"{resident_blocks} resident blocks were asked for, and the model has {len(blocks)}")
    counts = range(len(blocks), -1, -1) if resident_blocks is None else [resident_blocks]
    chosen = resident
    for count in counts:
        chosen = resident | {blocks[i] for i in evenly_spread(count, len(blocks))}
        if _needed(cut, chosen, wire_bytes) <= capacity_bytes:
            return _build(cut, capacity_bytes, chosen, wire_bytes)
    raise CapacityError(_too_small(cut, chosen, capacity_bytes, resident_blocks, wire_bytes))


def evenly_spread(count: int, total: int) -> list[int]:
    """Return `count` of `total` positions, spread evenly over the cycle: gaps differ by one at most."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _must_stay(cut: Cut) -> set[int]:
    """Return segments that cannot stream: needed while others stream, or beside another at one point.

    A point waits for one streamed segment at most: the largest of those it needs.
    """
    stay: set[int] = set()
    for point in cut.points:
        if point.spans_blocks:
            stay.update(point.segments)
        largest = max(point.segments, key=lambda i: cut.segments[i].nbytes)
        stay.update(index for index in point.segments if index != largest)
    return stay


def _streamed(cut: Cut, resident: set[int]) -> list[int]:
    return [index for index in range(len(cut.segments)) if index not in resident]


def _two_largest(sizes: Iterable[int]) -> int:
    """A copy can run ahead of the computation only if any two segments have room side by side."""
    return sum(sorted(sizes, reverse=True)[:2])


def _landing_sizes(cut: Cut, streamed: Sequence[int], wire_bytes: Sequence[int] | None) -> dict[int, int]:
    """Return the room that each streamed segment takes where it lands; none if no one is shorter on the wire.

    Blocks of one shape are not encoded to the same length. They get the same room, or one that is a little longer
    would reach into the room behind its own, and a copy would have to wait for one more decode.
    """
    if wire_bytes is None or all(wire_bytes[i] >= cut.segments[i].nbytes for i in streamed):
        return {}
    sizes = {i: -(-wire_bytes[i] // ALIGNMENT) * ALIGNMENT for i in streamed}
    largest = max(sizes.values())
    return {i: largest if size > _ABOUT_THE_SAME * largest else size for i, size in sizes.items()}


def _needed(cut: Cut, resident: set[int], wire_bytes: Sequence[int] | None) -> int:
    """Return the least device memory with which these segments can stay resident."""
    held = sum(cut.segments[i].nbytes for i in resident)
    streamed = _streamed(cut, resident)
    landing = _two_largest(_landing_sizes(cut, streamed, wire_bytes).values())
    return held + _two_largest(cut.segments[i].nbytes for i in streamed) + landing


def _too_small(
    cut: Cut, resident: set[int], capacity_bytes: int, resident_blocks: int | None, wire_bytes: Sequence[int] | None
) -> str:
    held = sum(cut.segments[i].nbytes for i in resident)
    streamed = _streamed(cut, resident)
    largest: list[Segment] = sorted((cut.segments[i] for i in streamed), key=lambda segment: -segment.nbytes)[:2]
    names = " + ".join(f"{segment.name} ({format_bytes(segment.nbytes)})" for segment in largest)
    landing = _two_largest(_landing_sizes(cut, streamed, wire_bytes).values())
    zone = f" and {format_bytes(landing)} of encoded bytes that land" if landing else ""
    asked = "" if resident_blocks is None else f" ({resident_blocks} blocks among it, as asked)"
    needed = _needed(cut, resident, wire_bytes)
    return (
        f"a device budget of {capacity_bytes:,} bytes is too small: the ring must hold its two largest layers, "
        f"{names}, beside {format_bytes(held)} that stays resident{asked}{zone}; "
        f"give at least {needed:,} bytes ({needed / cut.nbytes:.1%} of the model)"
    )


def _build(cut: Cut, capacity_bytes: int, resident: set[int], wire_bytes: Sequence[int] | None) -> Plan:
    order = sorted(resident)
    offsets, held = [], 0
    for index in order:
        offsets.append(held)
        held += cut.segments[index].nbytes
    needs = [
        (point, segment)
        for point, needed in enumerate(cut.points)
        for segment in needed.segments
        if segment not in resident
    ]
    sequence, uses = _merge_neighbours(needs)
    sizes = [(index, cut.segments[index].nbytes) for index in sequence]
    room = capacity_bytes - held if sizes else 0
    landing_sizes = _landing_sizes(cut, _streamed(cut, resident), wire_bytes)
    landing_bytes, landings = 0, []
    if landing_sizes and wire_bytes is not None:
        landed = [(index, landing_sizes[index]) for index in sequence]
        ring_bytes = _two_largest(dict(sizes).values())
        landing_bytes = _best_ring(landed, min(room - ring_bytes, sum(landing_sizes.values())))
        landings = [
            Landing(offset=offset, nbytes=wire_bytes[index], blocker_distance=distance)
            for (index, _), (offset, distance) in zip(landed, _place(landed, landing_bytes), strict=True)
        ]
    else:
        ring_bytes = _best_ring(sizes, room)
    return Plan(
        resident=tuple(order),
        resident_offsets=tuple(offsets),
        resident_bytes=held,
        ring_bytes=ring_bytes,
        loads=tuple(
            Load(segment=index, offset=offset, nbytes=nbytes, blocker_distance=distance)
            for (index, nbytes), (offset, distance) in zip(sizes, _place(sizes, ring_bytes), strict=True)
        ),
        uses=tuple(uses),
        landings=tuple(landings),
        landing_bytes=landing_bytes,
    )


def _merge_neighbours(needs: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the cycle of segments to load and, for each need, the load that serves it.

    The cycle has no end: a tied embedding is the last need of one forward and the first of the next, so
    one copy serves both.
    """
    sequence: list[int] = []
    uses = []
    for point, segment in needs:
        if not sequence or sequence[-1] != segment:
            sequence.append(segment)
        uses.append((point, len(sequence) - 1))
    if len(sequence) > 1 and sequence[0] == sequence[-1]:
        last = len(sequence) - 1
        sequence.pop()
        uses = [(point, 0 if load == last else load) for point, load in uses]
    return sequence, uses


def _best_ring(sequence: Sequence[tuple[int, int]], ring_bytes: int) -> int:
    """Return the ring size, at most `ring_bytes`, in which every copy can run ahead of the computation.

    Where the cycle's last load lands on the place of its first, the link waits for a layer to compute
    in every pass. A ring of one slot less often avoids that.
    """
    largest = max((nbytes for _, nbytes in sequence), default=0)
    slots = range(ring_bytes // largest, 1, -1) if largest else ()
    for size in (ring_bytes, *(count * largest for count in slots)):
        if all(distance > 1 for _, distance in _place(sequence, size)):
            return size
    return ring_bytes


def _place(sequence: Sequence[tuple[int, int]], ring_bytes: int) -> list[tuple[int, int]]:
    """Give each (segment, nbytes) of the cycle its (offset, distance to its blocker): the skip-end allocator."""
    places: dict[int, int] = {}
    spans: list[tuple[int, int]] = []
    head = 0
    for segment, nbytes in sequence:
        if segment not in places:
            places[segment] = head if head + nbytes <= ring_bytes else 0
        spans.append((places[segment], places[segment] + nbytes))
        head = spans[-1][1]
    return [(start, _blocker_distance(spans, index)) for index, (start, _) in enumerate(spans)]


def _blocker_distance(spans: Sequence[tuple[int, int]], index: int) -> int:
    """Return how far back in the cycle the nearest load lies that overlaps load `index`.

    The load itself, one cycle ago, overlaps at the latest.
    """
    start, end = spans[index]
    for distance in range(1, len(spans) + 1):
        other_start, other_end = spans[(index - distance) % len(spans)]
        if start < other_end and other_start < end:
            return distance
    raise ValueError("an empty segment cannot be placed in the ring")
