"""What an outcome's JSON may hold: which fields, of which type, how deep and how large. Nothing else is read.

A file may come from anywhere. Whoever draws a table of it may rely on what is refused here: numbers are finite and
can be a float, texts can be encoded, nothing is nested without end, and what this package reads by name is of the
type that it was written with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from djinn_checks.errors import OutcomeError
from djinn_checks.measurements import Facts, find_shapes
from djinn_checks.measurements.shape import ShapeError, check_shape
from djinn_checks.outcome.status import COMPARISONS, Status

MOST_CRITERIA = 2_000
"""Rows. The largest outcome of this package has a row for each planted fault, about a hundred."""
_DEEPEST = 32
"""Objects and lists within each other. The reference reports have 7."""
_LARGEST = 2**64
"""Of whole numbers: every count of bytes, and every number that a float can stand for in a figure."""
_LONGEST_S = 1e9
_NUMBERS = {"NaN", "Infinity", "-Infinity"}
"""Numbers that JSON lacks, as texts."""
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "check": str,
    "status": str,
    "summary": str,
    "criteria": list,
    "measurements": Mapping,
    "params": Mapping,
    "environment": Mapping,
    "timings": Mapping,
    "failure": (Mapping, type(None)),
    "started_at": str,
}
_VALUE = (int, float, str, type(None))
_ROW: Mapping[str, type | tuple[type, ...]] = {
    "name": str,
    "title": str,
    "observed": _VALUE,
    "comparison": str,
    "threshold": _VALUE,
    "unit": str,
    "status": str,
    "evidence": str,
    "required": bool,
    "reason": str,
}
_ROW_SINCE: Mapping[str, type | tuple[type, ...]] = {"floor": _VALUE, "instrument": (bool, type(None))}
"""Fields that rows of earlier versions lack."""
_FAILURE: Mapping[str, type | tuple[type, ...]] = {"type": str, "message": str, "traceback": str}
_FAILURE_SINCE: Mapping[str, type | tuple[type, ...]] = {"file": str, "line": (int, type(None))}
"""Fields that failures of earlier versions lack."""


def read_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an outcome's fields, each of the type that it has to be; texts are made encodable.

    Raises:
        OutcomeError: a field is missing, unknown, too deep, too large or of a wrong type or value. It names the field.
    """
    _check_fields(data, _FIELDS, {}, "", others=True)
    if len(data["criteria"]) > MOST_CRITERIA:
        raise OutcomeError(f"criteria: expected at most {MOST_CRITERIA:,} rows, got {len(data['criteria']):,}")
    fields: dict[str, Any] = {name: read_plain(data[name], name) for name in _FIELDS}
    _check_word(fields["status"], Status, "status")
    for number, row in enumerate(fields["criteria"]):
        _check_row(row, f"criteria[{number}]")
    if fields["failure"] is not None:
        _check_fields({"traceback": "", **fields["failure"]}, _FAILURE, _FAILURE_SINCE, "failure.")
    _check_start(fields["started_at"])
    _check_facts(fields)
    return fields


def read_plain(value: Any, path: str, depth: int = 1) -> Any:
    """Return plain data, its texts encodable.

    Raises:
        OutcomeError: it is nested too deeply, holds a number that is out of range, or is no plain data.
    """
    if depth > _DEEPEST:
        raise OutcomeError(f"{_cut(path)}: is nested more than {_DEEPEST} deep")
    if isinstance(value, Mapping):
        return {
            make_encodable(str(name)): read_plain(item, f"{path}.{name}", depth + 1) for name, item in value.items()
        }
    if isinstance(value, list):
        return [read_plain(item, path, depth + 1) for item in value]
    if isinstance(value, str):
        return make_encodable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) <= _LARGEST:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    told = f"a number of {value.bit_length()} bits" if isinstance(value, int) else repr(value)[:40]
    raise OutcomeError(f"{_cut(path)}: expected plain data and finite numbers up to 2^64, got {told}")


def read_number(value: Any) -> Any:
    """Return a row's value: what JSON lacks as a number, written as a text, is that number."""
    return float(value) if isinstance(value, str) and value in _NUMBERS else value


def make_encodable(text: str) -> str:
    """Return text that UTF-8 can hold: what it cannot, as of a file name in another encoding, is spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_row(row: Any, path: str) -> None:
    if not isinstance(row, Mapping):
        raise OutcomeError(f"{path}: expected a row of the check, got {_name_type(row)}")
    _check_fields(row, _ROW, _ROW_SINCE, f"{path}.")
    if not row["name"]:
        raise OutcomeError(f"{path}.name: expected a name, got none")
    _check_word(row["comparison"], COMPARISONS, f"{path}.comparison")
    _check_word(row["status"], Status, f"{path}.status")


def _check_fields(
    data: Mapping[str, Any],
    known: Mapping[str, type | tuple[type, ...]],
    since: Mapping[str, type | tuple[type, ...]],
    path: str,
    *,
    others: bool = False,
) -> None:
    """Raise if a known field is missing or of another type, or if there is one that is not known and none may be."""
    for name in known:
        if name not in data:
            raise OutcomeError(f"{path}{name}: is missing")
    for name, value in data.items():
        wanted = known.get(name) or since.get(name)
        if wanted is None and others:
            continue
        if wanted is None:
            raise OutcomeError(f"{_cut(path + str(name))}: there is no such field")
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        if not isinstance(value, kinds):
            names = " or ".join(_WORDS.get(kind, kind.__name__) for kind in kinds)
            raise OutcomeError(f"{path}{name}: expected {names}, got {_name_type(value)}")


def _check_word(word: str, known: Any, path: str) -> None:
    words = [str(one) for one in known]
    if word not in words:
        raise OutcomeError(f"{path}: expected one of {', '.join(words)}, got {word[:40]!r}")


def _check_start(started_at: str) -> None:
    try:
        is_date = not started_at or datetime.fromisoformat(started_at).year > 1
    except ValueError:
        is_date = False
    if not is_date:
        raise OutcomeError(f"started_at: expected a time by ISO 8601, got {started_at[:40]!r}")


def _check_facts(fields: Mapping[str, Any]) -> None:
    """Raise if what this package reads by name is not of the type that it was written with."""
    for name in ("total_s", "run_s"):
        seconds = fields["timings"].get(name, 0.0)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST_S:
            raise OutcomeError(f"timings.{name}: expected seconds, got {str(seconds)[:40]!r}")
    for name in ("system", "model"):
        if not isinstance(fields["params"].get(name, ""), str):
            raise OutcomeError(f"params.{name}: expected text, got {_name_type(fields['params'][name])}")
    shapes = find_shapes(fields["check"])
    try:
        check_shape(fields["environment"], Facts, "environment")
        if shapes is not None:
            check_shape(fields["measurements"], shapes.measurements, "measurements", partly=True)
            check_shape(fields["timings"], shapes.timings, "timings", partly=True)
    except ShapeError as error:
        raise OutcomeError(str(error)) from None


_WORDS: Mapping[type, str] = {
    str: "text",
    list: "a list",
    Mapping: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _name_type(value: Any) -> str:
    return _WORDS.get(type(value), "an object" if isinstance(value, Mapping) else type(value).__name__)


def _cut(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:120]}..."
