"""Where a series of figures changes its level by more than its own noise explains.

**The test.** For every place that leaves two runs or more on both sides, the trimmed means of both sides are compared
by the pooled two-sample t of trimmed means (Yuen and Dixon, "The approximate behaviour and performance of the
two-sample trimmed t", Biometrika 60, 1973, 369-374):

    t = (m1 - m2) / sqrt((S1 + S2) / (h1 + h2 - 2) * (1 / h1 + 1 / h2)),    h1 + h2 - 2 degrees of freedom

A side of n runs loses its g = floor(n / 10) smallest and largest; h = n - 2 g are left, m is their mean, and S the
winsorized sum of squared deviations of all n. Up to nine runs nothing is trimmed, and it is Student's t; from ten on
one run that is far off neither moves a level nor hides a change. With fewer it may hide one, and does not make one: it
widens the noise of its own side. The noise is that of the series itself, and no width of it is assumed.

**The largest of many.** The place is the one with the smallest p. That it was looked for at k places costs a factor k,
the bound of Bonferroni, which for the largest t of a series (Hawkins, "Testing a sequence of observations for a shift
in location", JASA 72, 1977, 180-186) is close in short series (Worsley, JASA 74, 1979, 365-370). The
place itself is then settled by the least absolute distances from both sides' medians, among those that trimming cannot
tell apart. What is left and right of a change is searched in the same way.

**Few runs.** With 2 + 2 runs there are two degrees of freedom, and a change must be some fifty times the noise to be
seen; with 3 + 3 runs about fourteen times. So a handful of runs gives no mark by chance: it gives few at all. One run
alone, the last one too, is never a change: it may be the noise that had not shown yet.

**Coarse figures.** Figures that are counted or rounded repeat, and their spread may come out as nothing. So r^2 / 12 is
added to the variance, r being the smallest difference of two figures of the series: the variance of rounding to steps
of r (Sheppard). A figure that was the same, to the last bit, in three runs and more, and is another one that is the
same in three and more, is a step all the same. A figure that comes out as one of two at random would look like that in
one of 32 series of six runs at most, and in one of 290 of twelve.

**Noise that is small by luck.** What few runs mark of pure noise is a series whose figures happen to lie close together
on both sides. So where the same row is known from other machines, 0.3 of the noise that it shows there, on the
quietest of them, is the least that is believed here. It is taken from the median difference between one run and the
next, which a change of level does not move. That takes marks away, and makes none. A series that is fifteen times as
quiet is another matter than luck, and keeps its own noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

LEAST_SIDE = 2
"""Runs on either side of a change."""
LEAST_CONSTANT = 3
"""Runs on either side of a step between two figures that do not vary."""
_TRIMMED = 10
"""One of so many runs is trimmed at either end. Of fewer, the t of what is left is larger, far out in its tail, than
Student's says: with one of 5, noise gave a mark four times as often as it should in 1 of 2,000 series."""
_BELIEVED = 0.3
"""Of the noise that the same row shows elsewhere: what is less is thought to be luck."""
_QUIETER = 15.0
"""Times as quiet as elsewhere: then it is no luck."""
_MEDIAN_DIFFERENCE = 0.9539
"""Median of the distance between two normal figures, in standard deviations: 0.6745 times the root of 2."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A change of level."""

    at: int
    """The first value of the new level."""
    before: float
    """Trimmed mean of the level before."""
    after: float
    p: float
    """How often noise alone would show one as large somewhere in such a series, at most; 0 for a step."""

    @property
    def ratio(self) -> float | None:
        """New over old level; None if the old one is 0."""
        return self.after / self.before if self.before else None


@dataclass(frozen=True)
class _Floor:
    """What the noise of a series is at least, in the unit of its figures."""

    gap: float
    """The smallest difference of two figures: they may be rounded to steps of it."""
    elsewhere: float
    """Standard deviation of the same row on another machine; 0 where there is none."""

    def raise_(self, variance: float) -> float:
        """Return the variance that is believed of a series that shows this one."""
        least = self.elsewhere if math.sqrt(variance) * _QUIETER > self.elsewhere else 0.0
        return max(variance + self.gap**2 / 12, (_BELIEVED * least) ** 2)


def find_shifts(values: Sequence[float], alpha: float, others: Sequence[Sequence[float]] = ()) -> list[Shift]:
    """Return where a series changes its level, in the order of time.

    Args:
        values: finite, in the order of time.
        alpha: how often noise alone may give a mark, for the series as a whole.
        others: the same row on other machines; what is too short to show its noise says nothing.
    """
    noises = [_find_noise(other, values) for other in others if len(other) > LEAST_SIDE]
    return _search(values, 0, alpha, _Floor(_smallest_gap(values), min(noises, default=0.0)))


def _find_noise(other: Sequence[float], values: Sequence[float]) -> float:
    """Return the standard deviation of one series, at the level of another one, if that is lower."""
    noise = median(abs(after - before) for before, after in itertools.pairwise(other)) / _MEDIAN_DIFFERENCE
    level, its_level = abs(median(values)), abs(median(other))
    return noise * level / its_level if level < its_level else noise


def can_shift(values: Sequence[float]) -> bool:
    """Tell whether there are runs enough for a change, and any two of them differ: else nothing is tested."""
    return len(values) >= 2 * LEAST_SIDE and len(set(values)) > 1


def _search(values: Sequence[float], start: int, alpha: float, floor: _Floor) -> list[Shift]:
    places = range(LEAST_SIDE, len(values) - LEAST_SIDE + 1)
    if not places or len(set(values)) == 1:
        return []
    best = min((_compare(values, place, floor, len(places)) for place in places), key=lambda shift: shift.p)
    if best.p > alpha:
        return []
    at = _settle_place(values, best.at)
    best = replace(_compare(values, at, floor, len(places)), p=best.p)
    left = _search(values[: best.at], start, alpha, floor)
    right = _search(values[best.at :], start + best.at, alpha, floor)
    found = Shift(at=start + best.at, before=best.before, after=best.after, p=best.p)
    return [*left, found, *right]


def _settle_place(values: Sequence[float], at: int) -> int:
    """Return the place beside which both sides lie closest to their own medians, the sum of their distances.

    What is trimmed hides a run of the other level: the t is blind to so many places to either side, and no further.
    """
    blind = len(values) // _TRIMMED
    places = range(max(LEAST_SIDE, at - blind), min(len(values) - LEAST_SIDE, at + blind) + 1)
    return min(places, key=lambda place: (_spread(values[:place]) + _spread(values[place:]), abs(place - at)))


def _spread(values: Sequence[float]) -> float:
    middle = median(values)
    return sum(abs(value - middle) for value in values)


def _compare(values: Sequence[float], place: int, floor: _Floor, places: int) -> Shift:
    one, other = sorted(values[:place]), sorted(values[place:])
    (mean, squares, kept), (its_mean, its_squares, its_kept) = _trim(one), _trim(other)
    if one[0] == one[-1] != other[0] == other[-1] and min(len(one), len(other)) >= LEAST_CONSTANT:
        return Shift(at=place, before=mean, after=its_mean, p=0.0)
    freedom = kept + its_kept - 2
    variance = floor.raise_((squares + its_squares) / freedom)
    error = math.sqrt(variance * (1 / kept + 1 / its_kept))
    p = tail_of_t(abs(mean - its_mean) / error, freedom) if error > 0 else 1.0
    return Shift(at=place, before=mean, after=its_mean, p=min(1.0, places * p))


def _trim(ordered: Sequence[float]) -> tuple[float, float, int]:
    """Return trimmed mean, winsorized sum of squared deviations, and how many values the mean is of."""
    cut = len(ordered) // _TRIMMED
    kept = ordered[cut : len(ordered) - cut]
    held = [kept[0]] * cut + list(kept) + [kept[-1]] * cut
    middle = fmean(held)
    return fmean(kept), sum((value - middle) ** 2 for value in held), len(kept)


def _smallest_gap(values: Sequence[float]) -> float:
    ordered = sorted(set(values))
    return min((after - before for before, after in itertools.pairwise(ordered)), default=0.0)


def tail_of_t(t: float, freedom: int) -> float:
    """Return how often |t| of Student's distribution is as large, or larger; `freedom` is a whole number.

    By the finite sums of Abramowitz and Stegun, 26.7.3 and 26.7.4. Below 1e-12 the result is rounded.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, cosine if freedom > 1 else 0.0
        for power in range(3, freedom - 1, 2):
            term *= cosine**2 * (power - 1) / power
            total += term
        inner = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 1.0
        for power in range(2, freedom - 1, 2):
            term *= cosine**2 * (power - 1) / power
            total += term
        inner = sine * total
    return min(1.0, max(0.0, 1.0 - inner))
