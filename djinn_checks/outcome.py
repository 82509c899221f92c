"""The result of a check: criteria, a status, and the plain data behind them. Standard library only.

An outcome written on a GPU host is read, rendered and compared on a laptop, so nothing here may need
torch, NVML or pydantic. Outcomes are frozen; new ones are derived with `dataclasses.replace`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

from djinn_checks.errors import OutcomeError

SCHEMA = "djinn-checks/outcome/1"

Observed = float | int | str | bool | None

_LARGE = 1e4
"""From here on four significant digits would need an exponent, or nearly."""


class Status(enum.StrEnum):
    """What is known about a claim. Only PASS is green."""

    PASS = "PASS"
    """Measured, and the claim holds."""
    FAIL = "FAIL"
    """Measured, and the claim does not hold."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """Not decided: evidence missing, noise above the threshold, or the wrong hardware."""
    ERROR = "ERROR"
    """The check itself crashed, timed out or was killed."""
    SKIP = "SKIP"
    """Not asked for; the reason says why."""


_WORST_FIRST = (Status.ERROR, Status.FAIL, Status.INCONCLUSIVE, Status.PASS)

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda observed, threshold: observed < threshold,
    "<=": lambda observed, threshold: observed <= threshold,
    ">": lambda observed, threshold: observed > threshold,
    ">=": lambda observed, threshold: observed >= threshold,
    "==": lambda observed, threshold: observed == threshold,
}


def worst(statuses: Iterable[Status]) -> Status:
    """Return the status that decides: ERROR beats FAIL beats INCONCLUSIVE beats PASS.

    SKIP does not count. Nothing that counts is no evidence, and no evidence is INCONCLUSIVE.
    """
    found = set(statuses)
    return next((status for status in _WORST_FIRST if status in found), Status.INCONCLUSIVE)


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
    missing: str = "the evidence is missing",
    failed: str = "",
) -> Criterion:
    """Hold an observation against its threshold.

    Args:
        observed: the measured value, in `unit`. None gives INCONCLUSIVE with the reason `missing`.
            NaN meets no threshold, so it is a FAIL.
        comparison: one of ``< <= > >= ==``, read as "observed comparison threshold".
        floor: the same statistic measured on the reference against itself. A floor that does not meet
            the threshold makes the criterion INCONCLUSIVE: the ruler is coarser than the claim.
        failed: what to say when the claim does not hold, beside the two numbers.

    Raises:
        ValueError: `comparison` is not one of the five.
    """
    if comparison not in _COMPARISONS:
        raise ValueError(f"comparison of {name!r}: expected one of {sorted(_COMPARISONS)}, got {comparison!r}")
    holds = _COMPARISONS[comparison]
    if observed is None:
        status, reason = Status.INCONCLUSIVE, missing
    elif floor is not None and not holds(floor, threshold):
        status = Status.INCONCLUSIVE
        expected = _expected(comparison, threshold, unit)
        reason = f"the noise floor itself is {format_quantity(floor, unit)}, where {expected} is expected"
    elif holds(observed, threshold):
        status, reason = Status.PASS, ""
    else:
        status = Status.FAIL
        reason = f"{format_quantity(observed, unit)}, expected {_expected(comparison, threshold, unit)}"
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
    )


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
        missing: str = "the evidence is missing",
        failed: str = "",
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
        return f"{100 * value:.4g} %{unit.removeprefix('share')}"
    return f"{format_value(value)} {unit}".rstrip()


def _expected(comparison: str, threshold: Observed, unit: str) -> str:
    words = {"<": "less than ", "<=": "at most ", ">": "more than ", ">=": "at least ", "==": ""}
    return words[comparison] + format_quantity(threshold, unit)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What stopped a check that did not finish."""

    type: str
    message: str
    traceback: str = ""

    @classmethod
    def from_exception(cls, error: BaseException) -> Failure:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return cls(type=type(error).__name__, message=str(error), traceback="".join(lines)[-8000:])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A check's verdict with everything it rests on, as plain data."""

    check: str
    """"logits", "pcie" or "agents"."""
    status: Status
    summary: str
    """One sentence with the key figure, for tables and banners."""
    criteria: tuple[Criterion, ...] = ()
    measurements: Mapping[str, Any] = field(default_factory=dict)
    """Plain data behind the criteria: histograms, series, tables. The same params give the same
    measurements; whatever differs from run to run belongs in `timings` or `environment`."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """The parameters as resolved, defaults included."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Machine and software, read by an instrument."""
    timings: Mapping[str, Any] = field(default_factory=dict)
    """Wall-clock seconds and everything else that varies between two runs of the same params."""
    failure: Failure | None = None
    """Set when, and only when, status is ERROR."""
    started_at: str = ""
    """UTC, ISO 8601."""

    @property
    def failed_first(self) -> tuple[Criterion, ...]:
        """The criteria in reading order: what went wrong first, required before informative."""
        order = {Status.ERROR: 0, Status.FAIL: 1, Status.INCONCLUSIVE: 2, Status.PASS: 3, Status.SKIP: 4}
        return tuple(sorted(self.criteria, key=lambda c: (not c.required, order[c.status])))

    def criterion(self, name: str) -> Criterion:
        """Return the criterion of that name.

        Raises:
            KeyError: this outcome has no such criterion.
        """
        for criterion in self.criteria:
            if criterion.name == name:
                return criterion
        raise KeyError(f"criterion {name!r}: the {self.check} outcome has {[c.name for c in self.criteria]}")

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON-ready data; numbers that JSON lacks become "NaN", "Infinity"."""
        plain = _plain(dataclasses.asdict(self))
        return {"schema": SCHEMA, **plain}

    def stable_dict(self) -> dict[str, Any]:
        """Return `to_dict` without times and machine: equal for two runs of the same params."""
        varying = ("environment", "timings", "started_at")
        return {key: value for key, value in self.to_dict().items() if key not in varying}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the outcome as JSON, whole or not at all, and return the path."""
        return write_atomically(Path(path), json.dumps(self.to_dict(), indent=1, sort_keys=True) + "\n")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Outcome:
        """Read what `to_dict` wrote.

        Raises:
            OutcomeError: the data has another schema, or lacks a field.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise OutcomeError(
                f"outcome: expected schema {SCHEMA!r}, got {found!r}; was it written by another version?"
            )
        try:
            return cls(
                check=data["check"],
                status=Status(data["status"]),
                summary=data["summary"],
                criteria=tuple(_read_criterion(row) for row in data["criteria"]),
                measurements=data["measurements"],
                params=data["params"],
                environment=data["environment"],
                timings=data["timings"],
                failure=Failure(**data["failure"]) if data["failure"] else None,
                started_at=data["started_at"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise OutcomeError(f"outcome: a field is missing or has a wrong value: {error!r}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Outcome:
        """Read an outcome from a JSON file.

        Raises:
            OutcomeError: the file is missing, is not JSON, or is no outcome.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise OutcomeError(f"outcome file {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise OutcomeError(f"outcome file {path}: is not JSON ({error}); was it cut short?") from error
        return cls.from_dict(data)


def settle(criteria: Iterable[Criterion]) -> Status:
    """Return the status of a check from its required criteria."""
    return worst(criterion.status for criterion in criteria if criterion.required)


def write_atomically(path: Path, text: str) -> Path:
    """Write text to a file beside its final name and move it there: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def _read_criterion(row: Mapping[str, Any]) -> Criterion:
    numbers = {key: _number(row[key]) for key in ("observed", "threshold")}
    return Criterion(**{**row, **numbers, "status": Status(row["status"])})


def _number(value: Any) -> Any:
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"an outcome holds plain data only, got {type(value).__name__}: {value!r:.80}")
