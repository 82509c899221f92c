"""Pages of mapped files that are registered with CUDA while the first pass is under way.

Registering takes longer than anything else does when files are opened that lie in the page cache: 13.5 GB take 0.4 s,
and a copy of a layer needs no more than the pages of that layer. So some pages of each file are registered when it is
opened, which tells whether its file system bears it, and all others by threads, in the order in which they are wanted.
Who copies waits for the pages that the copy reads. A copy may not cross from one registered chunk to another (CUDA's
error 1), so copies are cut where chunks meet.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from djinn_checks.engine.mapped_files import MappedFile, Stretch, current_context, cut_pages, enter_context

_AT_ONCE = 2
"""Threads: the driver takes one call after the other, and what is wanted first should not wait for what comes later."""

_log = logging.getLogger(__name__)

Place = tuple[Path, Stretch]


@dataclass(kw_only=True, eq=False)
class Chunk:
    """Pages of a file that are registered by one call."""

    file: MappedFile
    pages: Stretch
    registered: Future[str] | None = None
    """Gives why that failed; empty if it did not. None: it is registered."""


class Registration:
    """The chunks of some files on their way to be registered."""

    def __init__(self) -> None:
        """Start to serve this thread's CUDA context; threads are made when they are needed."""
        enter = partial(enter_context, current_context())
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="registration", initializer=enter)
        self._chunks: dict[Path, list[Chunk]] = {}

    def go_on(self, files: Sequence[tuple[MappedFile, Stretch]], order: Sequence[Place]) -> None:
        """Register the chunks of some files, but for one of each, which is registered.

        Args:
            files: each with the chunk that is registered.
            order: all paths and stretches that are read, as they are wanted.
        """
        done = {file.path: first for file, first in files}
        for file, _ in files:
            pages = cut_pages(stretch for path, stretch in order if path == file.path)
            self._chunks[file.path] = [Chunk(file=file, pages=each) for each in pages]
        wanted = [chunk for path, stretch in order for chunk in self._touched(path, stretch)]
        for chunk in dict.fromkeys(wanted):
            if chunk.pages != done[chunk.file.path]:
                chunk.registered = self._threads.submit(_lock, chunk)

    def cut(self, path: Path, stretch: Stretch) -> list[tuple[Stretch, Future[str] | None]]:
        """Return the parts of a stretch that one copy each may read, and what has to be done before it may."""
        if path not in self._chunks:
            return [(stretch, None)]
        return [
            (Stretch(max(chunk.pages.start, stretch.start), min(chunk.pages.end, stretch.end)), chunk.registered)
            for chunk in self._touched(path, stretch)
        ]

    def _touched(self, path: Path, stretch: Stretch) -> list[Chunk]:
        return [
            chunk for chunk in self._chunks[path] if chunk.pages.start < stretch.end and stretch.start < chunk.pages.end
        ]

    def let_go(self) -> None:
        """Leave out what was not begun, and wait for nothing: what is being registered is let go of with its file."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Leave out what was not begun, and wait for the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._chunks = {}


def _lock(chunk: Chunk) -> str:
    why = chunk.file.lock(chunk.pages)
    if why:
        _log.warning("%s: copies from there are slower, by way of memory of CUDA's own", why)
    return why
