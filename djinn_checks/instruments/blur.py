"""When a counter was read is known only to lie within its query, and some queries take long.

NVML keeps a query waiting while others pin memory or while kernels run that read host memory in place: 5 to 29 ms
were seen on a PCIe 5.0 x16 link, in place of 0.3. The sums stay right, and what passed in a run is known as well as
before, but at an instant within such a query they are not: the traffic of 20 ms may seem to have come in 10, and a full
link looks like one that rests. So a window that begins or ends beside such a query is lost, and a longer one is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

USUAL_S = 0.002
"""A query that takes no longer is as good as any other, however short the windows: readings are a millisecond apart."""
MOST_OF_WINDOW = 0.25
"""A query may take so much of a window. The reading is taken for its middle, so each end is then off by an eighth; what
that may add to a window or take from it is held for and against a claim (`find_unclear`)."""


def find_blurred(
    t_s: NDArray[np.float64], query_s: NDArray[np.float64], edges_s: NDArray[np.float64], window_s: float
) -> NDArray[np.bool_]:
    """Return which windows between neighbouring edges cannot be told from their neighbours.

    Args:
        t_s: float64 [n], the middles of the queries; `query_s` how long each took.
        edges_s: float64 [m + 1], where the windows begin and end.
        window_s: how long each is.

    Returns:
        bool [m].
    """
    asked_s = _longest_beside(t_s, query_s, edges_s)
    unclear = asked_s > max(MOST_OF_WINDOW * window_s, USUAL_S)
    return np.asarray(unclear[:-1] | unclear[1:], dtype=np.bool_)


def find_unclear(
    t_s: NDArray[np.float64], query_s: NDArray[np.float64], edges_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return for how long, in seconds, what passed in each window may have passed beside it: float64 [m].

    Arguments as of `find_blurred`. At either end that is half of the longer query beside it, if it took longer than
    usual.
    """
    asked_s = _longest_beside(t_s, query_s, edges_s)
    off_s = np.where(asked_s > USUAL_S, asked_s / 2, 0.0)
    return np.asarray(off_s[:-1] + off_s[1:], dtype=np.float64)


def find_unread(t_s: NDArray[np.float64], edges_s: NDArray[np.float64], window_s: float) -> NDArray[np.bool_]:
    """Return in which windows nothing was read, because readings lie further apart than that: bool [m].

    What passed in such a window is a part of what passed in a longer time, in which the link may have rested.
    """
    behind = np.searchsorted(t_s, edges_s)
    alone = np.diff(behind) == 0
    gap_s = np.diff(t_s, prepend=t_s[:1], append=t_s[-1:])
    return np.asarray(alone & (gap_s[behind[:-1]] > window_s + USUAL_S), dtype=np.bool_)


def _longest_beside(
    t_s: NDArray[np.float64], query_s: NDArray[np.float64], edges_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how long the longer of the two queries around each edge took."""
    behind = np.clip(np.searchsorted(t_s, edges_s), 0, len(t_s) - 1)
    return np.asarray(np.maximum(query_s[behind], query_s[np.clip(behind - 1, 0, None)]), dtype=np.float64)
