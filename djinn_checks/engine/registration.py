"""Pages of mapped files that are registered with CUDA while the first pass is under way.

Registering takes longer than anything else does when files are opened that lie in the page cache: 13.5 GB take 0.4 s,
and a copy of a layer needs no more than the pages of that layer. So some pages of each file are registered when it is
opened, which tells whether its file system bears it, and all others when a copy needs them or a thread comes to them,
whichever is first. The thread takes them in the order in which they are wanted, and begins once the stream is open:
while the driver registers pages it takes no other call, and opening makes some dozens. A copy may not cross from one
registered chunk to another (CUDA's error 1), so copies are cut where chunks meet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from djinn_checks.engine.mapped_files import MappedFile, Stretch, current_context, cut_pages, enter_context

_log = logging.getLogger(__name__)

Place = tuple[Path, Stretch]


@dataclass(kw_only=True, eq=False)
class Chunk:
    """Pages of a file that are registered by one call."""

    file: MappedFile
    pages: Stretch
    is_done: bool = False
    """Whether a copy may read them: they are registered, or that has failed."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def register(self) -> None:
        """Register the pages, or wait for whoever does; nothing if that is done."""
        with self._lock:
            why = "" if self.is_done else self.file.lock(self.pages)
            self.is_done = True
        if why:
            _log.warning("%s: copies from there are slower, by way of memory of CUDA's own", why)


class Registration:
    """The chunks of some files on their way to be registered."""

    def __init__(self) -> None:
        """Serve this thread's CUDA context; the thread is made when it is needed."""
        self._context = current_context()
        enter = partial(enter_context, self._context)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registration", initializer=enter)
        self._chunks: dict[Path, list[Chunk]] = {}
        self._wanted: list[Chunk] = []

    def plan(self, files: Sequence[tuple[MappedFile, Stretch]], order: Sequence[Place]) -> None:
        """Cut some files into chunks, of which one each is registered.

        Args:
            files: each with the chunk that is registered.
            order: all paths and stretches that are read, as they are wanted.
        """
        for file, first in files:
            pages = cut_pages(stretch for path, stretch in order if path == file.path)
            self._chunks[file.path] = [Chunk(file=file, pages=each, is_done=each == first) for each in pages]
        self._wanted = list(dict.fromkeys(chunk for path, stretch in order for chunk in self._touched(path, stretch)))

    def begin(self) -> None:
        """Have the thread register all chunks that nobody needed yet."""
        for chunk in self._wanted:
            if not chunk.is_done:
                self._thread.submit(chunk.register)
        self._wanted = []

    def need(self, chunk: Chunk) -> None:
        """Return when a copy may read a chunk."""
        if chunk.is_done:
            return
        before = current_context()
        enter_context(self._context)
        try:
            chunk.register()
        finally:
            enter_context(before)

    def cut(self, path: Path, stretch: Stretch) -> list[tuple[Stretch, Chunk | None]]:
        """Return the parts of a stretch that one copy each may read, and the chunk that it is in."""
        if path not in self._chunks:
            return [(stretch, None)]
        return [
            (Stretch(max(chunk.pages.start, stretch.start), min(chunk.pages.end, stretch.end)), chunk)
            for chunk in self._touched(path, stretch)
        ]

    def _touched(self, path: Path, stretch: Stretch) -> list[Chunk]:
        return [
            chunk for chunk in self._chunks[path] if chunk.pages.start < stretch.end and stretch.start < chunk.pages.end
        ]

    def let_go(self) -> None:
        """Leave out what was not begun, and wait for nothing: what is being registered is let go of with its file."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Leave out what was not begun, and wait for the rest."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._chunks = {}
