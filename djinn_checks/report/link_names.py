"""How links are called on a page: by as much of their UUIDs as tells them apart."""

from __future__ import annotations

from collections.abc import Sequence

_SHORTEST = 8


def shorten(uuids: Sequence[str]) -> dict[str, str]:
    """Return a short name for each UUID; the whole one where no shorter part is its own."""
    bare = {uuid: uuid.removeprefix("GPU-") for uuid in uuids}
    for length in range(_SHORTEST, max(map(len, bare.values()), default=_SHORTEST) + 1):
        short = {uuid: name[:length] for uuid, name in bare.items()}
        if len(set(short.values())) == len(short):
            return {uuid: name if name == bare[uuid] else f"{name}…" for uuid, name in short.items()}
    return dict(bare)
