"""What is known of recorded traces: the `truth.json` beside them, one table for each by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from djinn_checks.bounded import read_text
from djinn_checks.errors import ParamsError

_Bytes = Annotated[int, Field(ge=0, lt=2**63)]


class Truth(BaseModel):
    """When the work of one trace ran, what was really moved, and what of a model was streamed, where that is known."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    t_start_s: float
    t_end_s: float
    """CLOCK_MONOTONIC."""
    h2d_bytes: _Bytes
    passes: Annotated[int, Field(ge=1)] | None = None
    weight_bytes: Annotated[int, Field(ge=1)] | None = None
    budget_bytes: _Bytes | None = None
    used_bytes: Annotated[int, Field(ge=1)] | None = None
    """Of the weights, what a pass uses."""
    encodes: StrictBool = False
    """They travelled in fewer bytes than they have."""
    least_bytes: Annotated[float, Field(gt=0)] | None = None
    """The fewest that their entropy allows."""

    @model_validator(mode="after")
    def _fits_its_weights(self) -> Truth:
        if not self.t_start_s < self.t_end_s:
            raise ValueError(f"t_end_s: expected a time after t_start_s, {self.t_start_s}, got {self.t_end_s}")
        for name in ("budget_bytes", "used_bytes", "least_bytes"):
            value = getattr(self, name)
            if value is not None and self.weight_bytes is None:
                raise ValueError(f"{name}: needs weight_bytes beside it")
            if value is not None and self.weight_bytes is not None and value > self.weight_bytes:
                raise ValueError(f"{name}: expected at most weight_bytes, {self.weight_bytes:,}, got {value:,}")
        return self


def read_truth(path: Path, name: str) -> Truth:
    """Return the truth of one trace.

    Raises:
        ParamsError: the file cannot be read, or says nothing of the trace, or what cannot be.
    """
    table = _read_table(path)
    if name not in table:
        raise ParamsError(f"trace: {path} says nothing of {name!r}; it has {', '.join(map(repr, table)) or 'no trace'}")
    try:
        return Truth.model_validate(table[name])
    except ValidationError as error:
        wrong = "; ".join(_explain(dict(one)) for one in error.errors())
        raise ParamsError(
            f"trace: {path} needs t_start_s, t_end_s and h2d_bytes for {name!r}: {wrong}; correct it"
        ) from None


def _explain(problem: dict[str, Any]) -> str:
    said = str(problem["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    return f"{problem['loc'][0]}: {said}, got {problem['input']!r}" if problem["loc"] else said


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_text(path))
    except OSError as error:
        raise ParamsError(f"trace: {path} must lie beside the trace and cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ParamsError(f"trace: {path} is not JSON ({error})") from error
    if not isinstance(table, dict):
        raise ParamsError(f"trace: {path} is not a table of traces")
    return table
