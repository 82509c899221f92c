"""A residency plan: what stays on the device, and by which cycle of loads the rest passes through the ring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from djinn_checks.engine.segments import Cut


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
    """Segments that stay on the device as they are, by index."""
    resident_offsets: tuple[int, ...]
    resident_bytes: int
    ring_bytes: int
    loads: tuple[Load, ...]
    """The cycle of copies that one forward needs; it repeats with every forward."""
    uses: tuple[tuple[int, int], ...]
    """(point, load) in the order of a forward. Neighbours with the same load share one copy."""
    landings: tuple[Landing | None, ...] = ()
    """One for each load, None where its encoded bytes stay on the device; empty if the loads are copied straight into
    their places."""
    landing_bytes: int = 0
    encoded_bytes: int = 0
    """Bytes of the segments that stay on the device encoded."""
    moves: tuple[int, ...] = ()
    """Bytes that each load copied straight into its place moves, known once it is known where the weights lie; empty:
    all of them, alignment included."""

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory in all."""
        return self.resident_bytes + self.ring_bytes + self.landing_bytes + self.encoded_bytes

    @property
    def wire_sizes(self) -> tuple[int, ...]:
        """Bytes that each load moves over the link."""
        if not self.landings:
            return self.moves or tuple(load.nbytes for load in self.loads)
        return tuple(0 if landing is None else landing.nbytes for landing in self.landings)

    @property
    def stays_encoded(self) -> frozenset[int]:
        """Segments that stay on the device encoded, and are decoded into the ring when they are used."""
        both = zip(self.loads, self.landings, strict=False)
        return frozenset(load.segment for load, landing in both if landing is None)

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


Planner = Callable[[Cut, Sequence[int] | None], Plan]
"""Makes a plan for segments that have so many bytes on the wire; None: as many as in their places."""
