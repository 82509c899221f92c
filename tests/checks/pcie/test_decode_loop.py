"""What the witness of one decode step proves, and what it leaves open."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from djinn_checks.checks.pcie.decode_loop import _certainly_moved


@pytest.mark.parametrize(
    ("used", "moved", "expected"),
    [
        (100, 70, 70),  # all was seen, and enough moved
        (100, 0, 0),  # all was seen, and none of it moved
        (20, 0, None),  # what was not seen may have moved
        (20, 60, 60),  # enough moved, whatever was not seen
        (60, 5, 5),  # not enough, even if all that was not seen moved
    ],
)
def test_weights_that_were_not_seen_are_never_taken_for_weights_that_did_not_move(
    used: int, moved: int, expected: int | None
) -> None:
    system: Any = SimpleNamespace(model=SimpleNamespace(weight_bytes=100), budget_bytes=50)
    seen: Any = SimpleNamespace(used_bytes=used, moved_bytes_lower_bound=moved)
    assert _certainly_moved(seen, system) == expected
