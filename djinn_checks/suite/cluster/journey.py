"""A job's way to a host and back: what goes with it is put there, it runs, what it says is written down as it comes,
and its files are fetched in pieces, each whole by its digest. Knows no Ray: whoever calls the host is given.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from djinn_checks.errors import LostError, StoppedError
from djinn_checks.outcome.fields import make_encodable
from djinn_checks.report.progress import Stage
from djinn_checks.suite.cluster.luggage import cut, is_inside

_LOOK_S = 0.5
"""Between two looks at a job."""
_MOST_FILES, _MOST_BYTES = 200, 8 * 1024**3
"""Of what a job leaves; more is no job of ours."""
_MARGIN_S = 120.0
"""What a host gets beyond the job's time limit, which it keeps itself, to write what came of it."""


class Remote(Protocol):
    """An `Errand` on another host."""

    def call(self, name: str, *arguments: Any) -> Any:
        """Call one of its methods and return what it returns.

        Raises:
            LostError: there is no answer, and none will come.
            StoppedError: the suite was told to stop meanwhile.
        """

    def close(self) -> None:
        """Have all of it end there. Never raises."""


@dataclass(frozen=True, kw_only=True)
class Trip:
    """What one job takes along, and where what comes back goes."""

    luggage: Mapping[str, Path]
    """Files by the names that they have there."""
    arguments: Sequence[str]
    """Of our command line."""
    limit_s: float
    """Its time limit."""
    folder: Path
    """Gets the files that come back."""
    log: Path
    """Gets what is said, as it comes."""


@dataclass(frozen=True, kw_only=True)
class Back:
    """How a journey ended."""

    code: int | None
    """The exit code of the command line there; None if it did not come to its own end."""
    lost: LostError | None = None
    stopped: bool = False


def travel(open_remote: Callable[[], Remote], trip: Trip, stop: threading.Event, tell: Callable[[Stage], None]) -> Back:
    """Do all of it, and leave nothing running there. Never raises for what the other host does."""
    remote: Remote | None = None
    try:
        tell(Stage("waits for its place", 0, 1))
        remote = open_remote()
        for name, file in trip.luggage.items():
            for piece in cut(file):
                remote.call("put", name, piece)
        remote.call("start", list(trip.arguments))
        code = _attend(remote, trip, stop, tell)
        tell(Stage("its files are fetched", 0, 1))
        _fetch(remote, trip.folder)
        remote.call("end")
        return Back(code=code)
    except LostError as lost:
        return Back(code=None, lost=lost)
    except StoppedError:
        return Back(code=None, stopped=True)
    except OSError as error:  # of this machine's disk
        return Back(code=None, lost=LostError(type(error).__name__, f"what came back could not be written: {error}"))
    finally:
        if remote is not None:
            remote.close()


def _attend(remote: Remote, trip: Trip, stop: threading.Event, tell: Callable[[Stage], None]) -> int:
    """Wait for a job's end; write down and tell what comes meanwhile."""
    end, start = time.monotonic() + trip.limit_s + _MARGIN_S, 0
    with trip.log.open("wb") as log:
        while True:
            code, stage, said = remote.call("look", start)
            start += log.write(said)
            log.flush()
            if stage is not None:
                tell(Stage(str(stage[0])[:200], float(stage[1]), float(stage[2])))
            if code is not None and not said:
                return int(code)
            if stop.wait(0 if said else _LOOK_S):
                raise StoppedError
            if time.monotonic() > end:
                raise LostError(
                    "Timeout", f"it has not ended {_MARGIN_S:.0f} s after its time limit of {trip.limit_s:.0f} s"
                )


def _fetch(remote: Remote, folder: Path) -> None:
    listed: Mapping[str, tuple[int, str]] = remote.call("list")
    total = sum(size for size, _ in listed.values())
    if len(listed) > _MOST_FILES or total > _MOST_BYTES:
        raise LostError("TooMuch", f"it left {len(listed)} files of {total:,} bytes, more than any check leaves")
    for name, (size, digest) in listed.items():
        if not is_inside(name) or Path(name).name != name or make_encodable(name) != name:
            raise LostError("NoFile", f"it left a file named {name!r:.80}, which no check does")
        _fetch_file(remote, name, size, digest, folder / name)


def _fetch_file(remote: Remote, name: str, size: int, digest: str, target: Path) -> None:
    whole, got = hashlib.sha256(), 0
    with target.open("wb") as file:
        while piece := remote.call("read", name, got):
            whole.update(piece)
            got += file.write(piece)
            if got > size:
                break
    if got != size or whole.hexdigest() != digest:
        with contextlib.suppress(OSError):
            target.unlink()
        raise LostError("Changed", f"{name} changed while it was fetched: {size:,} bytes were there, {got:,} came")


def limit_of(timeout_s: float, left_s: float) -> float:
    """Return the seconds that a job may take, of its own limit and of what its suite has left; 0 for none."""
    return max(min(timeout_s, left_s if math.isfinite(left_s) else timeout_s), 0.0)
