"""Pages of mapped files that are registered with CUDA while the first pass is under way.

Registering takes longer than anything else does when files are opened that lie in the page cache: 13.5 GB take 0.4 s,
and a copy of a layer needs no more than the pages of that layer. So the first pages of each file are registered when
it is opened, which tells whether its file system bears it, and all others by threads, in the order of the files. Who
copies waits for the pages that the copy reads. A copy may not cross from one registered chunk to another (CUDA's error
1), so copies are cut where chunks meet.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from djinn_checks.engine.mapped_files import MappedFile, Stretch, current_context, enter_context

_AT_ONCE = 2
"""Threads: the driver takes one call after the other, and what is wanted first should not wait for what comes later."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Pages of a file that are registered by one call."""

    pages: Stretch
    registered: Future[str] | None
    """Gives why that failed; empty if it did not. None: it is registered."""


class Registration:
    """The chunks of some files on their way to be registered."""

    def __init__(self) -> None:
        """Start to serve this thread's CUDA context; threads are made when they are needed."""
        enter = partial(enter_context, current_context())
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="registration", initializer=enter)
        self._chunks: dict[Path, list[Chunk]] = {}

    def go_on(self, file: MappedFile, chunks: Sequence[Stretch]) -> None:
        """Register the chunks of a file behind its first, which is registered."""
        first = Chunk(pages=chunks[0], registered=None)
        behind = [Chunk(pages=pages, registered=self._threads.submit(_lock, file, pages)) for pages in chunks[1:]]
        self._chunks[file.path] = [first, *behind]

    def cut(self, path: Path, stretch: Stretch) -> list[tuple[Stretch, Future[str] | None]]:
        """Return the parts of a stretch that one copy each may read, and what has to be done before it may."""
        chunks = self._chunks.get(path)
        if chunks is None:
            return [(stretch, None)]
        first = bisect_right(chunks, stretch.start, key=lambda chunk: chunk.pages.start) - 1
        return [
            (Stretch(max(chunk.pages.start, stretch.start), min(chunk.pages.end, stretch.end)), chunk.registered)
            for chunk in chunks[first:]
            if chunk.pages.start < stretch.end
        ]

    def close(self) -> None:
        """Leave out what was not begun, and wait for the rest."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._chunks = {}


def _lock(file: MappedFile, pages: Stretch) -> str:
    why = file.lock(pages)
    if why:
        _log.warning("%s: copies from there are slower, by way of memory of CUDA's own", why)
    return why
