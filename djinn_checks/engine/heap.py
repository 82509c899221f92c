"""The C library's heap: on a CPU the memory of the device, in which a forward's results lie beside the sessions' KV.

glibc maps a large block by itself, and unmaps it when it is freed. But it raises the size from which on it does so to
the largest block that was ever freed, up to 32 MB: behind the loading of a model all results of a forward lie in heaps,
one for each thread, which keep what is freed. How much that is depends on the order in which threads ran: 30 to 110 MB
of a server of a tiny model. On a busy machine it grew by up to 4 MB within a session, which from outside looks like a
part of a KV that stays.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
"""An option of mallopt(3)."""
_LARGE_BYTES = 128 * 1024
"""From here on glibc maps a block by itself as long as none was freed."""


def unmap_what_is_freed() -> None:
    """Have every large block that this process allocates from here on go back to the system when it is freed.

    Its pages are faulted in anew each time: a prefill of 112 tokens by SmolLM2 takes 11 to 18 % longer, a decode no
    longer. Other C libraries than glibc have rules of their own, and are let be.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
