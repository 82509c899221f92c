"""Where the KV caches of sessions are: on the device, or asleep on the host, or on disk, and never in two minds.

Both memories have hard limits. What does not fit is refused with an error that says what was full; whether
to wait, to make room or to give up is the scheduler's business. A session's bytes are digested when they
leave the device and when they are back, and are given to nobody if the two differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.engine.device_memory import DeviceMemory
from djinn_checks.engine.host_pool import HostPool
from djinn_checks.engine.kv_cache import KvBlock
from djinn_checks.engine.kv_mover import KvMover, Later, Move, Moved
from djinn_checks.engine.kv_shape import KvShape
from djinn_checks.engine.spill_file import Extent, SpillFile
from djinn_checks.errors import KvDigestError


@dataclass(kw_only=True)
class Parked:
    """A session's KV off the device, or on its way."""

    session_id: str
    tokens: int
    nbytes: int
    pages: list[Tensor] = field(default_factory=list)
    """Room on the host, in pieces; empty if the bytes are on disk."""
    extent: Extent | None = None
    """Its place in the spill file, if the bytes are on disk."""
    digests: tuple[int, ...] = ()
    """One per region, of the bytes as they left the device."""


class KvStore:
    """Device blocks, host pages, and the way between them.

    Everything returns at once. `move_out` and `move_in` return a move, and another thread waits for its end.
    """

    def __init__(
        self,
        shape: KvShape,
        device: torch.device,
        *,
        device_bytes: int,
        host_bytes: int,
        spill_folder: Path | None = None,
    ) -> None:
        """Set the limits and pin the host pool.

        Args:
            device_bytes: most bytes of KV on the device.
            host_bytes: most bytes of sleeping KV in host memory.
            spill_folder: where what does not fit the pool goes; None: it is refused.

        Raises:
            EngineError: the pool cannot be had or cannot be locked, or the folder cannot be written to.
        """
        self._spill_file = SpillFile(spill_folder) if spill_folder is not None else None
        self.shape = shape
        self.memory = DeviceMemory(device, device_bytes)
        self.pool = HostPool(host_bytes, pinned=device.type == "cuda")
        self._out, self._back = KvMover(device), KvMover(device)
        # Moves to and from files are made by the threads that wait for them, so they have movers of their own.
        self._out_to_file = KvMover(device) if spill_folder else self._out
        self._back_from_file = KvMover(device) if spill_folder else self._back

    def allocate(self, tokens: int) -> KvBlock:
        """Return a block for at least `tokens` tokens, filled with anything.

        Raises:
            KvCapacityError: the device has no room for it now.
        """
        return KvBlock(self.shape, self.memory.take(self.shape.device_bytes(tokens)))

    def release(self, block: KvBlock) -> None:
        """Take a block back, which nothing computes or copies with any more."""
        self.memory.give(block.memory)

    def can_park(self, tokens: int) -> bool:
        """Tell whether the KV of `tokens` tokens would find a place off the device now."""
        return self._spill_file is not None or self.pool.fits(tokens * self.shape.token_bytes)

    def park(self, session_id: str, tokens: int) -> Parked:
        """Take a place off the device for the KV of `tokens` tokens.

        Raises:
            KvCapacityError: the host pool is full and there is no folder to spill to.
        """
        nbytes = tokens * self.shape.token_bytes
        parked = Parked(session_id=session_id, tokens=tokens, nbytes=nbytes)
        if self.pool.fits(nbytes) or self._spill_file is None:
            parked.pages = self.pool.take(nbytes)
        else:
            parked.extent = self._spill_file.take(nbytes)
        return parked

    def move_out(self, block: KvBlock, parked: Parked) -> Move:
        """Start to copy a session's KV to its place off the device. The block stays as it is.

        Waiting for the move ends with `complete_out`. It raises `KvCapacityError` if the disk is full.
        """
        groups = block.used_rows(parked.tokens)
        # To a file everything goes where it is waited for: both copies block.
        spilled = parked.extent is not None
        move = Later(partial(self._spill, groups, parked)) if spilled else self._out.out(groups, parked.pages)
        return _Completed(move, partial(self.complete_out, block, parked))

    def complete_out(self, block: KvBlock, parked: Parked, moved: Moved) -> Moved:
        """Note the digests that a session left with. Called in the thread that waits, and so is `complete_in`."""
        parked.digests = moved.digests
        return moved

    def move_in(self, parked: Parked, block: KvBlock) -> Move:
        """Start to copy a session's KV back into a block. Waiting for the move ends with `complete_in`."""
        groups = block.used_rows(parked.tokens)
        spilled = parked.extent is not None
        move = Later(partial(self._fetch, groups, parked)) if spilled else self._back.back(groups, parked.pages)
        return _Completed(move, partial(self.complete_in, parked, block))

    def complete_in(self, parked: Parked, block: KvBlock, moved: Moved) -> Moved:
        """See that what came back is what left.

        Raises:
            KvDigestError: it is not; the session must not be continued.
        """
        if moved.digests == parked.digests:
            return moved
        changed = [
            region.name
            for region, left, came in zip(self.shape.regions, parked.digests, moved.digests, strict=True)
            if left != came
        ]
        raise KvDigestError(
            parked.session_id,
            f"session {parked.session_id!r}: {len(changed)} of {len(self.shape.regions)} parts of its KV came "
            f"back changed, first {changed[0]!r}; the session is closed, start it again",
        )

    def discard(self, parked: Parked) -> None:
        """Give up a place off the device."""
        self.pool.give(parked.pages)
        parked.pages = []
        if self._spill_file is not None and parked.extent is not None:
            self._spill_file.give(parked.extent)
            parked.extent = None

    def close(self) -> None:
        """Let go of all memory. Nothing may be moving any more."""
        self.memory.trim()
        self.pool.close()
        if self._spill_file is not None:
            self._spill_file.close()

    def _spill(self, groups: list[Tensor], parked: Parked) -> Moved:
        staging = torch.empty(parked.nbytes, dtype=torch.uint8)
        moved = self._out_to_file.out(groups, [staging]).wait()
        if self._spill_file is not None and parked.extent is not None:
            self._spill_file.write(parked.extent, _bytes_of(staging))
        return moved

    def _fetch(self, groups: list[Tensor], parked: Parked) -> Moved:
        staging, there = torch.empty(parked.nbytes, dtype=torch.uint8), 0
        if self._spill_file is not None and parked.extent is not None:
            there = self._spill_file.read(parked.extent, _bytes_of(staging))
        if there < parked.nbytes:
            raise KvDigestError(
                parked.session_id,
                f"session {parked.session_id!r}: its place in the spill file has {there:,} of {parked.nbytes:,} "
                "bytes; the session is closed, start it again",
            )
        return self._back_from_file.back(groups, [staging]).wait()


class _Completed(Move):
    """A move, and what is to be done when it has ended."""

    def __init__(self, move: Move, complete: Callable[[Moved], Moved]) -> None:
        self._move, self._complete = move, complete

    def wait(self) -> Moved:
        return self._complete(self._move.wait())


def _bytes_of(data: Tensor) -> memoryview:
    return memoryview(data.numpy().data).cast("B")
