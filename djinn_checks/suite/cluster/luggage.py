"""What goes with a job to another host, where nothing of this one's disk is seen: its params file, and small files that
its parameters name by a path relative to the working folder, such as a trace. They lie there under the same names.

What is named by an absolute path, a folder, or larger has to lie on the host; so have systems of the user's own, which
come as installed packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from djinn_checks.errors import RunnerError
from djinn_checks.suite.execution import Job

PIECE_BYTES = 4 * 1024**2
"""A file travels in pieces of that at most, so that no host's object store has to hold it whole."""
_MOST_BYTES = 256 * 1024**2
_RANDOM = "random:"
_RECORDED = ".csv.gz"
_BESIDE_ALL = ("truth.json", "copy_h2d.csv.gz")
"""What lies beside recorded traces, one for all of them."""


def pack(job: Job) -> dict[str, Path]:
    """Return the files that go with a job, by the names that they have there.

    Raises:
        RunnerError: a file is too large to travel.
    """
    packed = {params_place(job): job.params_file}
    for value in _texts(job.resolved):
        for path in _files_of(value.removeprefix(_RANDOM)):
            packed[path.as_posix()] = path
    for name, path in packed.items():
        if path.stat().st_size > _MOST_BYTES:
            raise RunnerError(
                f"{job.name}: {name} is too large to go with a job; put it on each host, name it by its full path"
            )
    return packed


def params_place(job: Job) -> str:
    """Return the name that a job's params file has there."""
    return f".suite/{job.params_file.name}"


def cut(file: Path) -> Iterator[bytes]:
    """Give a file in pieces; of an empty one, one empty piece."""
    with file.open("rb") as source:
        yield source.read(PIECE_BYTES)
        while piece := source.read(PIECE_BYTES):
            yield piece


def is_inside(name: str) -> bool:
    """Tell whether a name leads to a file below the folder that it is relative to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _texts(value)
    elif isinstance(values, list):
        for value in values:
            yield from _texts(value)


def _files_of(text: str) -> list[Path]:
    """Return the file of that relative path, and what belongs to it; nothing if the text is no such path."""
    path = Path(text)
    try:
        if not is_inside(text) or not path.is_file():
            return []
    except (OSError, ValueError):
        return []
    beside: list[Path] = []
    if text.endswith(_RECORDED):
        stem = path.name.removesuffix(_RECORDED).removesuffix(".samples")
        names = (*_BESIDE_ALL, f"{stem}.outcome.json", f"{stem}.json")
        beside = [path.with_name(name) for name in names if name != path.name]
    return [path, *(other for other in beside if other.is_file())]
