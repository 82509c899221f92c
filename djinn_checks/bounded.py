"""Files from others, read within bounds: regular files only, so many bytes and no more, compressed or not.

A path may lead to a pipe that nobody writes to, to a device that never ends, or to a few kilobytes that unpack to
gigabytes. None of them may hang a reader or fill its memory. What is refused is an OSError like any other that a file
can cause, with its reason in `strerror`.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import math
import os
import stat
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO, NoReturn

Path = str | os.PathLike[str]

MOST_BYTES = 64 * 2**20
"""Of an outcome or a notebook. Those of the reference reports have less than 1 MB."""


MOST_BYTES_OF_PARAMS = 10**6
"""Of a file of names and values that somebody wrote."""


def open_regular(path: Path) -> BinaryIO:
    """Return a file open for reading, and never wait for one.

    Raises:
        OSError: it cannot be opened, or is a pipe, a device, a socket or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a regular file of at most so many bytes.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most:,} bytes", os.fspath(path))
    return content


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Return the text of a regular file of at most so many bytes of UTF-8.

    Raises:
        OSError: it cannot be read, is no regular file, or is longer.
        UnicodeDecodeError: it is not UTF-8.
    """
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, most)), encoding="utf-8").read()  # any end of line is one


def read_gzip_text(path: Path, most: int) -> str:
    """Return the text of a gzipped regular file that unpacks to at most so many bytes of UTF-8.

    Raises:
        OSError: it cannot be read, is no regular file, is not gzipped, or unpacks to more.
        EOFError: it is cut short.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_regular(path) as packed, gzip.GzipFile(fileobj=packed) as file:
        try:
            content = file.read(most + 1)
        except zlib.error as error:
            raise OSError(errno.EINVAL, f"it is no sound gzip ({error})", os.fspath(path)) from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it unpacks to more than {most:,} bytes", os.fspath(path))
    return content.decode("utf-8")


def parse_json(text: str) -> Any:
    """Return JSON as data: numbers are finite, and no name stands twice in an object.

    Raises:
        ValueError: it is no such JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_read_float, object_pairs_hook=_read_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def refuse_bulk(values: Any, most: int = 10**5) -> None:
    """Raise a ValueError if data holds too many values; an alias of YAML counts as all that it stands for."""
    count, left = 0, [values]
    while left:
        value = left.pop()
        count += 1
        if count + len(left) > most:
            raise ValueError(f"it holds more than {most:,} values")
        if isinstance(value, dict | list):
            left += list(value.values()) if isinstance(value, dict) else value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON; an outcome writes it as text")


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def _read_object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} stands twice in one object")
    return found
