"""A row of a check: what was measured, held against what must be; and how its values are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass

from djinn_checks.outcome.status import COMPARISONS, Observed, Status, decide, worst

_MISSING = "the evidence is missing"
_LARGE = 1e4
"""From here on four significant digits would need an exponent, or nearly."""


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One row of a check."""

    name: str
    """Identifier, stable between versions: faults and comparisons refer to it."""
    title: str
    """The claim, as a short sentence."""
    observed: Observed
    """The measured value in `unit`; None is unknown."""
    comparison: str
    """How observed is held against threshold: one of < <= > >= ==."""
    threshold: Observed
    unit: str
    status: Status
    evidence: str
    """The instrument and the sample that the observed value comes from."""
    required: bool = True
    """Informative criteria (False) are shown and never decide the outcome."""
    reason: str = ""
    """Why the status is what it is; may be empty only for PASS."""
    floor: Observed = None
    """The same statistic of the reference against itself; None if there is none."""
    instrument: bool | None = None
    """Whether the row is about an instrument: what does not hold there is missing evidence. None where an outcome of
    an earlier version does not say."""


def judge(
    name: str,
    title: str,
    observed: Observed,
    comparison: str,
    threshold: Observed,
    *,
    unit: str,
    evidence: str,
    required: bool = True,
    floor: Observed = None,
    missing: str = _MISSING,
    failed: str = "",
    instrument: bool = False,
) -> Criterion:
    """Hold an observation against its threshold.

    Args:
        observed: the measured value, in `unit`. None gives INCONCLUSIVE with the reason `missing`.
            NaN meets no threshold, so it is a FAIL.
        comparison: one of ``< <= > >= ==``, read as "observed comparison threshold".
        floor: the same statistic measured on the reference against itself. A floor that does not meet
            the threshold makes the criterion INCONCLUSIVE: the ruler is coarser than the claim.
        failed: what to say when the claim does not hold, beside the two numbers.
        instrument: whether the row is about an instrument: what does not hold there is INCONCLUSIVE.

    Raises:
        ValueError: `comparison` is not one of the five.
    """
    if comparison not in COMPARISONS:
        raise ValueError(f"comparison of {name!r}: expected one of {sorted(COMPARISONS)}, got {comparison!r}")
    status = decide(observed, comparison, threshold, floor=floor, instrument=instrument)
    expected = _expected(comparison, threshold, unit)
    if observed is None:
        reason = missing or _MISSING
    elif status is Status.PASS:
        reason = ""
    elif floor is not None and not COMPARISONS[comparison](floor, threshold):
        reason = f"the noise floor itself is {format_quantity(floor, unit)}, where {expected} is expected"
    else:
        reason = f"{format_quantity(observed, unit)}, expected {expected}"
        reason += f": {failed}" if failed else ""
    return Criterion(
        name=name,
        title=title,
        observed=observed,
        comparison=comparison,
        threshold=threshold,
        unit=unit,
        status=status,
        evidence=evidence,
        required=required,
        reason=reason,
        floor=floor,
        instrument=instrument,
    )


def skip(name: str, title: str, *, unit: str, reason: str, required: bool = True) -> Criterion:
    """Return a criterion that was not asked for, with the reason. It never decides an outcome."""
    return Criterion(
        name=name,
        title=title,
        observed=None,
        comparison="==",
        threshold=None,
        unit=unit,
        status=Status.SKIP,
        evidence="",
        required=required,
        reason=reason,
        instrument=False,
    )


def settle(criteria: Iterable[Criterion]) -> Status:
    """Return the status of a check from its required criteria."""
    return worst(criterion.status for criterion in criteria if criterion.required)


@dataclass(frozen=True)
class Row:
    """What a criterion is called, said once whether it is judged or skipped."""

    name: str
    title: str
    _: KW_ONLY
    unit: str
    required: bool = True

    def judge(
        self,
        observed: Observed,
        comparison: str,
        threshold: Observed,
        *,
        evidence: str,
        floor: Observed = None,
        missing: str = _MISSING,
        failed: str = "",
        instrument: bool = False,
    ) -> Criterion:
        """Hold an observation against its threshold, as the function `judge` does."""
        return judge(
            self.name,
            self.title,
            observed,
            comparison,
            threshold,
            unit=self.unit,
            evidence=evidence,
            required=self.required,
            floor=floor,
            missing=missing,
            failed=failed,
            instrument=instrument,
        )

    def skip(self, reason: str) -> Criterion:
        """Return the criterion as not asked for, as the function `skip` does."""
        return skip(self.name, self.title, unit=self.unit, reason=reason, required=self.required)


def format_value(value: Observed) -> str:
    """Return a criterion's value as text: counts and what is large in full, else four significant digits; None as
    "unknown".
    """
    if value is None:
        return "unknown"
    if isinstance(value, bool | str):
        return str(value).lower() if isinstance(value, bool) else value
    if isinstance(value, int):
        return f"{value:,}"
    is_large = _LARGE <= abs(value) < math.inf
    return f"{value:,.0f}" if is_large else f"{value:.4g}"


def format_quantity(value: Observed, unit: str) -> str:
    """Return a value with its unit: "12 elements", "95.2 % of windows" for a "share of windows"."""
    if unit.startswith("share") and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{format_value(100.0 * value)} %{unit.removeprefix('share')}"
    return f"{format_value(value)} {unit}".rstrip()


def _expected(comparison: str, threshold: Observed, unit: str) -> str:
    words = {"<": "less than ", "<=": "at most ", ">": "more than ", ">=": "at least ", "==": ""}
    return words[comparison] + format_quantity(threshold, unit)
