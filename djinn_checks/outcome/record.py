"""A check's verdict with everything it rests on, written to a file and read back."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from djinn_checks.bounded import parse_json, read_text
from djinn_checks.errors import OutcomeError
from djinn_checks.outcome.contradictions import Said, find_contradictions, list_contradictions
from djinn_checks.outcome.criterion import Criterion
from djinn_checks.outcome.fields import read_fields, read_number
from djinn_checks.outcome.status import Status

SCHEMA = "djinn-checks/outcome/1"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What stopped a check that did not finish."""

    type: str
    message: str
    traceback: str = ""
    file: str = ""
    """The file of the system under check in which it was raised; empty if it was raised elsewhere, or nobody knows."""
    line: int | None = None

    @classmethod
    def from_exception(cls, error: BaseException, *, file: str = "", line: int | None = None) -> Failure:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        name, told = type(error).__name__, "".join(lines)[-8000:]
        return cls(type=name, message=str(error), traceback=told, file=file, line=line)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A check's verdict with everything it rests on, as plain data."""

    check: str
    """"logits", "pcie", "agents", "host" or "faults"."""
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

    def __str__(self) -> str:
        """The verdict in one line, and what does not hold."""
        rows = [row for row in self.failed_first if row.required]
        lines = [f"{self.status.value} {self.check}: {self.summary}"]
        lines += [
            f"  {row.status.value} {row.name}: {row.reason}"
            for row in rows
            if row.status in (Status.FAIL, Status.INCONCLUSIVE)
        ]
        return "\n".join(lines)

    def __repr__(self) -> str:
        rows = f"{len(self.criteria)} criteria"
        return f"Outcome(check={self.check!r}, status={self.status.value}, {rows}, summary={self.summary!r})"

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
        """Read what `to_dict` wrote, and derive again what follows from it: see `contradictions.py`.

        Raises:
            OutcomeError: the data has another schema, lacks a field, holds a wrong one, or contradicts itself.
        """
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise OutcomeError(
                f"outcome: expected schema {SCHEMA!r}, got {str(found)[:40]!r}; was it written by another version?"
            )
        try:
            fields = read_fields(data)
        except OutcomeError as error:
            raise OutcomeError(f"outcome: a field is missing or has a wrong value: {error}") from None
        criteria = tuple(_read_criterion(row) for row in fields["criteria"])
        failure = Failure(**fields["failure"]) if fields["failure"] is not None else None
        status = Status(fields["status"])
        problems = find_contradictions(
            Said(fields["check"], status, criteria, failure is not None, fields["params"], fields["measurements"])
        )
        if problems:
            raise OutcomeError(f"outcome: it contradicts itself: {'; '.join(problems)}; was it edited?")
        return cls(**fields | {"status": status, "criteria": criteria, "failure": failure})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Outcome:
        """Read an outcome from a JSON file.

        Raises:
            OutcomeError: the file is missing, is not JSON, is no outcome, or contradicts itself.
        """
        try:
            data = parse_json(read_text(path))
        except OSError as error:
            raise OutcomeError(f"outcome file {path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise OutcomeError(f"outcome file {path}: is not JSON ({error}); was it cut short?") from error
        try:
            return cls.from_dict(data)
        except OutcomeError as error:
            raise OutcomeError(f"{path}: {error}") from None


def list_problems(data: Mapping[str, Any]) -> list[str]:
    """Return all that contradicts itself in data whose fields are an outcome's, each in a clause.

    Raises:
        OutcomeError: a field is missing or has a wrong value.
    """
    fields = read_fields(data)
    criteria = tuple(_read_criterion(row) for row in fields["criteria"])
    facts = fields["params"], fields["measurements"]
    said = Said(fields["check"], Status(fields["status"]), criteria, fields["failure"] is not None, *facts)
    return list_contradictions(said)


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
    numbers = {name: read_number(row.get(name)) for name in ("observed", "threshold", "floor")}
    return Criterion(**{**row, **numbers, "status": Status(row["status"])})


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
