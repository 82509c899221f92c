"""The digests of a folder's files: `SHA256SUMS`, which `sha256sum -c` reads, too.

Whoever makes the folder writes it, so alone it shows what was damaged on the way. What was changed on purpose it shows
only with a signature, for a forger can write a manifest as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from djinn_checks.bounded import read_text
from djinn_checks.errors import RunnerError
from djinn_checks.outcome import write_atomically

MANIFEST = "SHA256SUMS"
SIGNATURE = f"{MANIFEST}.sig"
_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_PIECE = 2**20
_MOST_FILES = 100_000


def write_manifest(folder: Path) -> Path:
    """Write the digest of every file in a folder and below, in the order of their names.

    Raises:
        RunnerError: there is a link or a special file among them, or a file cannot be read or written.
    """
    files, odd = walk(folder)
    if odd:
        raise RunnerError(f"{folder}: {odd[0]} is a link or a special file, which has no digest; remove it")
    try:
        return _write(folder, {name: digest(folder / name) for name in files})
    except OSError as error:
        place = error.filename or folder
        raise RunnerError(
            f"{place}: cannot be read or written ({error.strerror}); change that and try again"
        ) from error


def refresh_manifest(folder: Path, names: Iterable[str]) -> Path:
    """Write the digests of these files, and of those that the manifest lists already and that are still there.

    What has no digest, as it is no regular file or cannot be read, is left out.

    Raises:
        OSError: it cannot be written.
    """
    try:
        listed = [*read_manifest(folder)]
    except (OSError, ValueError):
        listed = []
    found: dict[str, str] = {}
    for name in dict.fromkeys((*names, *listed)):
        with contextlib.suppress(OSError, UnicodeError):
            name.encode()
            found[name] = digest(folder / name)
    return _write(folder, found)


def _write(folder: Path, found: Mapping[str, str]) -> Path:
    lines = [_line(name, found[name]) for name in sorted(found) if name not in (MANIFEST, SIGNATURE)]
    return write_atomically(folder / MANIFEST, "".join(lines))


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the digests by the names of the files.

    Raises:
        OSError: it cannot be read.
        ValueError: a line of it is no digest and name, a name leads out of the folder, or stands twice.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(folder / MANIFEST).split("\n"), 1):
        if not line:
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is no SHA-256 digest and name")
        name = _unescape(match[3]) if match[1] else match[3]
        if is_outside(name):
            raise ValueError(f"line {number} names {name[:80]!r}, which leads out of the folder")
        if name in found:
            raise ValueError(f"{name[:80]!r} stands in it twice")
        found[name] = match[2]
    return found


def is_outside(name: str) -> bool:
    """Tell whether a name is not that of a file within a folder, written in the one plain way."""
    path = PurePosixPath(name)
    return not name or "\0" in name or path.is_absolute() or ".." in path.parts or str(path) != name


def walk(folder: Path) -> tuple[list[str], list[str]]:
    """Return the regular files in a folder and below, and what is neither a regular file nor a folder. Follows no link.

    Raises:
        RunnerError: there are too many.
    """
    files: list[str] = []
    odd: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        here = Path(place)
        odd += [_relative(here / name, folder) for name in folders if (here / name).is_symlink()]
        for name in names:
            is_regular = stat.S_ISREG((here / name).lstat().st_mode)
            (files if is_regular else odd).append(_relative(here / name, folder))
        if len(files) > _MOST_FILES:
            raise RunnerError(f"{folder}: expected at most {_MOST_FILES:,} files; is it the folder of a suite?")
    return sorted(files), sorted(odd)


def digest(path: Path) -> str:
    """Return the SHA-256 of a regular file, which is no link.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(22, "it is no regular file", str(path))
        found = hashlib.sha256()
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def list_changes(folder: Path, told: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Return each file of a manifest that is not as it says, and how it is."""
    for name, expected in told.items():
        try:
            found = digest(folder / name)
        except FileNotFoundError:
            yield name, "is gone"
        except OSError as error:
            yield name, f"cannot be read ({'it is a link' if (folder / name).is_symlink() else error.strerror})"
        else:
            if found != expected:
                yield name, f"has the digest {found[:12]}..., and the manifest says {expected[:12]}..."


def _line(name: str, found: str) -> str:
    escaped = re.sub(r"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
    return f"{'' if escaped == name else chr(92)}{found}  {escaped}\n"


def _unescape(name: str) -> str:
    back = {written: meant for meant, written in _ESCAPES.items()}
    return re.sub(r"\\[\\nr]", lambda match: back[match[0]], name)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
