"""Which segments stay on the device, and where the others land in the ring.

The budget is split once, before any weight is read: resident segments first, the ring after them. Every
streamed segment gets a fixed place in the ring from a skip-end allocator: segments are laid one after
the other, and one that would cross the end starts again at 0, so none is ever split. Fixed places mean
that parameters are bound to memory once, and that the hot path only orders copies.

Resident blocks are spread evenly among the streamed ones. If they ran one after the other, the link would
stand idle while they compute.

Segments that travel encoded land first, in a zone after the ring, and are decoded from there into their places when
they are used. Copies run ahead into the zone, where a segment takes less room than in the ring. So the ring holds one
segment, and the zone gets the rest. Blocks may stay on the device encoded, too: more of them fit, and each costs a
decode in every pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from djinn_checks.engine.plan import Landing, Load, Plan
from djinn_checks.engine.segments import ALIGNMENT, Cut, Segment
from djinn_checks.errors import CapacityError
from djinn_checks.units import format_bytes

_ABOUT_THE_SAME = 0.95
"""Encoded segments that are longer than this share of the longest one get as much room as that one."""


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What stays, by index, and how many bytes of the others travel."""

    cut: Cut
    resident: frozenset[int]
    encoded: frozenset[int]
    wire_bytes: Sequence[int] | None

    def nbytes(self, segments: Iterable[int]) -> list[int]:
        return [self.cut.segments[index].nbytes for index in segments]

    @property
    def loaded(self) -> list[int]:
        """Segments that pass through the ring."""
        return [index for index in range(len(self.cut.segments)) if index not in self.resident]

    @property
    def encoded_bytes(self) -> int:
        return sum(_whole_rooms(self.wire_bytes[index]) for index in self.encoded) if self.wire_bytes else 0

    @property
    def decodes(self) -> bool:
        """Whether loads are decoded into the ring: some of them have fewer bytes encoded than in their places."""
        wire = self.wire_bytes
        return wire is not None and any(wire[i] < self.cut.segments[i].nbytes for i in self.loaded)

    @property
    def landing_sizes(self) -> dict[int, int]:
        """The room that each travelling segment takes where it lands.

        Blocks of one shape are not encoded to the same length. They get the same room, or one that is a little longer
        would reach into the room behind its own, and a copy would have to wait for one more decode.
        """
        if self.wire_bytes is None or not self.decodes:
            return {}
        sizes = {i: _whole_rooms(self.wire_bytes[i]) for i in self.loaded if i not in self.encoded}
        largest = max(sizes.values(), default=0)
        return {i: largest if size > _ABOUT_THE_SAME * largest else size for i, size in sizes.items()}

    @property
    def needed_bytes(self) -> int:
        """The least device memory for it: a copy can run ahead only if any two have room side by side where it goes."""
        held = sum(self.nbytes(self.resident)) + self.encoded_bytes
        return held + self.least_ring_bytes + _two_largest(self.landing_sizes.values())

    @property
    def least_ring_bytes(self) -> int:
        """Two segments that are copied straight into their places; or one, decoded when it is used."""
        sizes = self.nbytes(self.loaded)
        return max(sizes) if self.decodes else _two_largest(sizes)


def plan_residency(
    cut: Cut,
    capacity_bytes: int,
    *,
    resident_blocks: int | None = None,
    wire_bytes: Sequence[int] | None = None,
    encoded_blocks: int = 0,
) -> Plan:
    """Decide what stays resident within `capacity_bytes` and place the rest in the ring.

    Whatever leaves room for the two largest streamed segments (encoded: for the largest one, and the two largest as
    they travel) may stay: first the small segments outside the blocks, then the larger ones (embeddings, head), then as
    many blocks as fit, evenly spread.

    Args:
        capacity_bytes: device memory for resident segments and ring together.
        resident_blocks: keep exactly this many decoder blocks as they are, not as many as fit.
        wire_bytes: of each segment, how many bytes travel. None, or nothing streamed that has fewer than in its
            place: there is no landing zone.
        encoded_blocks: keep so many decoder blocks encoded, beside those that stay as they are.

    Raises:
        CapacityError: those segments do not fit beside what must stay, or the asked
            number of resident blocks does not fit, or is more than there are.
    """
    everything = frozenset(range(len(cut.segments)))
    if cut.nbytes <= capacity_bytes and resident_blocks is None:
        return _build(_Choice(cut=cut, resident=everything, encoded=frozenset(), wire_bytes=None), capacity_bytes)
    chosen = _Choice(cut=cut, resident=_must_stay(cut), encoded=frozenset(), wire_bytes=wire_bytes)
    outer = [i for i in chosen.loaded if not cut.segments[i].is_block]
    for index in sorted(outer, key=lambda i: cut.segments[i].nbytes):
        more = replace(chosen, resident=chosen.resident | {index})
        chosen = more if more.needed_bytes <= capacity_bytes else chosen
    blocks = [i for i, segment in enumerate(cut.segments) if segment.is_block]
    kept = (resident_blocks or 0) + encoded_blocks
    if kept > len(blocks):
        raise CapacityError(f"{kept} resident blocks were asked for, and the model has {len(blocks)}")
    counts = range(len(blocks) - encoded_blocks, -1, -1) if resident_blocks is None else [resident_blocks]
    outside, with_blocks = chosen, chosen
    for count in counts:
        with_blocks = _keep_blocks(outside, blocks, count, encoded_blocks)
        if with_blocks.needed_bytes <= capacity_bytes:
            return _build(with_blocks, capacity_bytes)
    raise CapacityError(_too_small(with_blocks, capacity_bytes, resident_blocks))


def plan_fewest_bytes(cut: Cut, capacity_bytes: int, *, wire_bytes: Sequence[int] | None = None) -> Plan:
    """Return the plan by which the fewest bytes travel; of those, the one that decodes the fewest.

    Blocks stay encoded where more of them fit that way. What a decode costs is not asked: `plan_for_pace` does.

    Raises:
        CapacityError: as `plan_residency`.
    """
    plans = list(plans_with_encoded_blocks(cut, capacity_bytes, wire_bytes))
    return min(plans, key=lambda plan: (plan.bytes_per_pass, plan.weight_bytes_per_pass))


def plans_with_encoded_blocks(cut: Cut, capacity_bytes: int, wire_bytes: Sequence[int] | None) -> Iterator[Plan]:
    """Give the plan that keeps no block encoded, then those that keep one and more, as long as there is room.

    Raises:
        CapacityError: as `plan_residency`.
    """
    yield plan_residency(cut, capacity_bytes, wire_bytes=wire_bytes)
    blocks = sum(segment.is_block for segment in cut.segments) if wire_bytes is not None else 0
    for count in range(1, blocks + 1):
        try:
            yield plan_residency(cut, capacity_bytes, wire_bytes=wire_bytes, encoded_blocks=count)
        except CapacityError:
            return


def _keep_blocks(choice: _Choice, blocks: Sequence[int], plain: int, encoded: int) -> _Choice:
    """Return the choice with so many blocks beside it, evenly spread, those that are encoded among the others too."""
    kept = [blocks[i] for i in evenly_spread(plain + encoded, len(blocks))]
    some = frozenset(kept[i] for i in evenly_spread(encoded, len(kept)))
    return replace(choice, resident=choice.resident | (set(kept) - some), encoded=some)


def evenly_spread(count: int, total: int) -> list[int]:
    """Return `count` of `total` positions, spread evenly over the cycle: gaps differ by one at most."""
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def _must_stay(cut: Cut) -> frozenset[int]:
    """Return segments that cannot stream: needed while others stream, or beside another at one point.

    A point waits for one streamed segment at most: the largest of those it needs.
    """
    stay: set[int] = set()
    for point in cut.points:
        if point.spans_blocks:
            stay.update(point.segments)
        largest = max(point.segments, key=lambda i: cut.segments[i].nbytes)
        stay.update(index for index in point.segments if index != largest)
    return frozenset(stay)


def _two_largest(sizes: Iterable[int]) -> int:
    return sum(sorted(sizes, reverse=True)[:2])


def _whole_rooms(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _too_small(choice: _Choice, capacity_bytes: int, resident_blocks: int | None) -> str:
    segments: list[Segment] = [choice.cut.segments[i] for i in choice.loaded]
    largest = sorted(segments, key=lambda segment: -segment.nbytes)[: 1 if choice.decodes else 2]
    layers = "largest layer" if choice.decodes else "two largest layers"
    names = " + ".join(f"{segment.name} ({format_bytes(segment.nbytes)})" for segment in largest)
    held = format_bytes(sum(choice.nbytes(choice.resident)) + choice.encoded_bytes)
    landing = _two_largest(choice.landing_sizes.values())
    zone = f" and {format_bytes(landing)} of encoded bytes that land" if landing else ""
    asked = "" if resident_blocks is None else f" ({resident_blocks} blocks among it, as asked)"
    needed = choice.needed_bytes
    return (
        f"a device budget of {capacity_bytes:,} bytes is too small: the ring must hold its {layers}, "
        f"{names}, beside {held} that stays resident{asked}{zone}; "
        f"give at least {needed:,} bytes ({needed / choice.cut.nbytes:.1%} of the model)"
    )


def _build(choice: _Choice, capacity_bytes: int) -> Plan:
    cut, order = choice.cut, sorted(choice.resident)
    offsets, held = [], 0
    for index in order:
        offsets.append(held)
        held += cut.segments[index].nbytes
    needs = [
        (point, segment)
        for point, needed in enumerate(cut.points)
        for segment in needed.segments
        if segment not in choice.resident
    ]
    sequence, uses = _merge_neighbours(needs)
    sizes = [(index, cut.segments[index].nbytes) for index in sequence]
    room = capacity_bytes - held - choice.encoded_bytes if sizes else 0
    landing_bytes, landings = 0, tuple[Landing | None, ...]()
    if choice.decodes:
        ring_bytes = choice.least_ring_bytes
        landing_bytes, landings = _lay_out_landings(choice, sequence, room - ring_bytes)
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
        landings=landings,
        landing_bytes=landing_bytes,
        encoded_bytes=choice.encoded_bytes,
    )


def _lay_out_landings(choice: _Choice, sequence: Sequence[int], room: int) -> tuple[int, tuple[Landing | None, ...]]:
    """Return the bytes of the landing zone, and where in it each load of the cycle lands, if it travels."""
    rooms, wire = choice.landing_sizes, choice.wire_bytes or ()
    travels = [number for number, index in enumerate(sequence) if index in rooms]
    sizes = [(sequence[number], rooms[sequence[number]]) for number in travels]
    zone_bytes = _best_ring(sizes, min(room, sum(rooms.values())))
    landings: list[Landing | None] = [None] * len(sequence)
    for turn, (offset, distance) in enumerate(_place(sizes, zone_bytes)):
        number, blocker = travels[turn], travels[(turn - distance) % len(travels)]
        landings[number] = Landing(
            offset=offset,
            nbytes=wire[sequence[number]],
            blocker_distance=(number - blocker) % len(sequence) or len(sequence),
        )
    return zone_bytes, tuple(landings)


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
