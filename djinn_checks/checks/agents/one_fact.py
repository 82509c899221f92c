"""One fact gives one FAIL: a row that says again what another one FAILs for refers to it, and is INCONCLUSIVE.

A KV that never left the device cannot come back, cannot be gone soon, and leaves closing open. One that does not come
from the host is computed again, by every witness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from djinn_checks.outcome import Criterion, Status

_RESTS_ON = {
    "kv_returned": ("kv_left_device",),
    "kv_left_soon": ("kv_left_device",),
    "closing_frees": ("kv_left_device",),
    "kv_from_host": ("kv_left_device",),
    "loads_counted": ("kv_from_host", "kv_left_device"),
    "crowd_restored": ("kv_from_host",),
}
"""For each row, those whose failure it would only repeat."""
_OF_A_POOL = {
    "kv_in_on_link": ("kv_from_host",),
    "prefill_counted": ("kv_from_host",),
    "rounding_is_kept": ("kv_from_host",),
    "first_token_is_kept": ("kv_from_host",),
    "logprobs_equal_twin": ("prefill_counted", "kv_from_host"),
}
"""The same where all KV is in a pool: what the host does not give is computed."""


def tell_once(rows: Sequence[Criterion], *, is_pool: bool) -> tuple[Criterion, ...]:
    """Return the rows, those that only repeat another's FAIL as INCONCLUSIVE, with the reason."""
    failed = {row.name: row for row in rows if row.status is Status.FAIL}
    rests_on = _RESTS_ON | (_OF_A_POOL if is_pool else {})
    return tuple(
        _refer(row, failed[causes[0]])
        if row.status is Status.FAIL and (causes := [name for name in rests_on.get(row.name, ()) if name in failed])
        else row
        for row in rows
    )


def _refer(row: Criterion, cause: Criterion) -> Criterion:
    reason = f"it would say again what is said at {cause.name!r}: {cause.title[0].lower()}{cause.title[1:]}"
    return replace(row, observed=None, status=Status.INCONCLUSIVE, reason=reason)
