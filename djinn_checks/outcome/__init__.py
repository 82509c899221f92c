"""The result of a check: criteria, a status, and the plain data behind them. Standard library only.

An outcome written on a GPU host is read, rendered and compared on a laptop, so nothing here may need
torch, NVML or pydantic. Outcomes are frozen; new ones are derived with `dataclasses.replace`.
"""

from __future__ import annotations

from djinn_checks.outcome.criterion import Criterion, Row, format_quantity, format_value, judge, settle, skip
from djinn_checks.outcome.record import SCHEMA, Failure, Outcome, write_atomically
from djinn_checks.outcome.status import Observed, Status, worst

__all__ = [
    "SCHEMA",
    "Criterion",
    "Failure",
    "Observed",
    "Outcome",
    "Row",
    "Status",
    "format_quantity",
    "format_value",
    "judge",
    "settle",
    "skip",
    "worst",
    "write_atomically",
]
