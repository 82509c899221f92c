"""Encoded segments kept in a folder, to be mapped the next time in place of being read and encoded again.

One file holds one segment: a header of one page, then the encoded bytes. The header has a digest of the segment's
source: of which file it was read, where in it, how large that file is and when it was written to or touched last
(`st_ctime_ns`, which nobody can set), and the codec's settings. Another source, or one that was written to, has another
digest. The encoded bytes have a digest of their own, which is taken before they are given to a decoder: what was not
encoded may bring a GPU down.

A file is written beside its place and then renamed, so that readers and other writers meet whole files alone. What is
not used is never an error: the segment is encoded again, and `notes` say why.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from djinn_checks.digest import digest
from djinn_checks.engine.mapped_files import MappedFile, Stretch, map_file
from djinn_checks.engine.segments import Segment, Weights

_log = logging.getLogger(__name__)

_MAGIC = "djinn-checks encoded segment 1"
HEADER_BYTES = 4096
"""A page, so that the encoded bytes begin where one does."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of an encoded segment beside its bytes."""

    segment: str
    source: str
    """Digest of where it comes from, in hexadecimal."""
    plain_bytes: int
    length: int
    """Bytes that the codec wrote."""
    nbytes: int
    """Bytes that are kept: those and zeros."""
    is_plain: bool
    checksum: int
    """Of the segment's own bytes."""
    digest: int
    """Of the bytes that are kept."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An encoded segment that was found in the folder."""

    facts: Facts
    data: Tensor
    """1-d uint8, in the file or in memory."""
    file: MappedFile | None
    """None: it could not be registered, so `data` is a copy."""


_KINDS = {
    "segment": str, "source": str, "plain_bytes": int, "length": int, "nbytes": int, "is_plain": bool,
    "checksum": int, "digest": int,
}  # fmt: skip


class EncodedStore:
    """Encoded segments of one model in a folder.

    Attributes:
        notes: what was not used or not kept, and why.
    """

    def __init__(self, folder: Path, weights: Weights, settings: str, device: torch.device) -> None:
        """Note where; the folder is made when something is kept.

        Args:
            settings: the codec's.
        """
        self._folder, self._weights, self._settings, self._device = folder, weights, settings, device
        self.notes: list[str] = []
        if not hasattr(weights, "stored"):
            self._note(f"nothing is kept in {folder}: the weights are not read one by one from files")

    def source_of(self, segment: Segment) -> str | None:
        """Return a digest of where a segment's bytes come from; None if that is no file."""
        stored = getattr(self._weights, "stored", None)
        if stored is None:
            return None
        told: list[Any] = [_MAGIC, self._settings, segment.name, segment.nbytes]
        for tensor in segment.tensors:
            place = stored(tensor.name_in(self._weights))
            state = os.stat(place.path)
            told.append([tensor.names, tensor.shape, tensor.stride, str(tensor.dtype), tensor.offset])
            told.append([place.kind, place.offset, place.nbytes, place.path.name])
            told.append([state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns])
        return _short_digest(json.dumps(told), 16)

    def find(self, segment: Segment) -> Kept | None:
        """Return a segment that was kept of its source as it is; None if there is none, or it is refused."""
        path = self._path(segment)
        if not path.exists():
            return None
        try:
            file = map_file(path)
            facts = _read_header(file.buffer)
        except (OSError, ValueError, TypeError) as error:
            self._refuse(path, f"is no encoded segment ({error})")
            return None
        data = file.buffer[HEADER_BYTES:]
        if facts.source != self.source_of(segment) or facts.plain_bytes != segment.nbytes:
            self._refuse(path, "is of another source, or of one that was written to since")
            return None
        if data.numel() != facts.nbytes or not 0 < facts.length <= facts.nbytes:
            self._refuse(path, f"has {data.numel():,} encoded bytes, expected {facts.nbytes:,}")
            return None
        why = self._register(file)
        if int(digest(data.to(self._device))) != facts.digest:
            file.close()
            self._refuse(path, "was changed on its disk or in memory")
            return None
        if why:
            self._note(f"{path.name}: {why}; it is copied")
        return Kept(facts=facts, data=data, file=None if why else file)

    def keep(self, segment: Segment, facts: Facts, data: Tensor) -> None:
        """Write an encoded segment. If that cannot be done it is noted, and nothing is left behind.

        Args:
            data: 1-d uint8 on the CPU.
        """
        path = self._path(segment)
        try:
            if facts.source != self.source_of(segment):
                self._note(f"{path.name}: not kept, its source was written to while it was read")
                return
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=self._folder)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_header(facts))
                    file.write(data.numpy().data)
                os.replace(beside, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
                raise
        except OSError as error:
            self._note(f"{path.name}: not kept in {self._folder} ({error.strerror})")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        _log.warning("%s", text)

    def _register(self, file: MappedFile) -> str:
        if self._device.type != "cuda":
            return ""
        return file.register([Stretch(0, file.buffer.numel())])

    def _refuse(self, path: Path, why: str) -> None:
        self._note(f"{path.name} {why}; the segment is encoded again")

    def _path(self, segment: Segment) -> Path:
        told = json.dumps([self._settings, segment.name, segment.nbytes, str(segment.dtype)])
        short = _short_digest(told, 6)
        return self._folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', segment.name)[:80]}-{short}.encoded"


def _header(facts: Facts) -> bytes:
    told = json.dumps(asdict(facts))
    return f"{_MAGIC}\n{_short_digest(told, 16)}\n{told}".encode().ljust(HEADER_BYTES - 1) + b"\n"


def _short_digest(text: str, nbytes: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=nbytes).hexdigest()


def _read_header(buffer: Tensor) -> Facts:
    """Return the facts of a file.

    Raises:
        ValueError, TypeError: it has none.
    """
    magic, _, rest = bytes(buffer[:HEADER_BYTES].numpy()).decode().partition("\n")
    if magic != _MAGIC:
        raise ValueError(f"it does not begin with {_MAGIC!r}")
    written, _, told = rest.rstrip().partition("\n")
    if written != _short_digest(told, 16):
        raise ValueError("its header was changed")
    facts = Facts(**json.loads(told))
    wrong = [name for name, kind in _KINDS.items() if type(getattr(facts, name)) is not kind]
    if wrong:
        raise TypeError(f"{wrong[0]}: expected {_KINDS[wrong[0]].__name__}, got {getattr(facts, wrong[0])!r}")
    return facts
