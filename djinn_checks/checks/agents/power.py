"""What a run without a wrong restore says of how often restores are wrong: the rule of three.

If wrong ones come independently at a rate r, n restores are all right with probability (1 - r)^n. Rates for which that
is below 5 % are excluded with 95 %: those above 1 - 0.05^(1/n), which is 3/n for all but small n.
"""

from __future__ import annotations

import math

_MISSED = 0.05


def rate_excluded(restores: int) -> float:
    """Return the rate above which a wrong one would have been seen with 95 %, in restores of which none was wrong."""
    return 1.0 - _MISSED ** (1.0 / restores) if restores > 0 else 1.0


def restores_for(rate: float) -> int:
    """Return how many restores without a wrong one exclude a rate, above 0 and below 1, with 95 %."""
    return math.ceil(math.log(_MISSED) / math.log1p(-rate))
