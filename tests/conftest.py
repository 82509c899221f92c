"""Properties are tested without a time limit for each example: other tests use the cores meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("djinn-checks", deadline=None)
settings.load_profile("djinn-checks")

_LONG = (
    "tests/suite/",
    "tests/checks/agents/",
    "tests/faults/",
    "tests/server/",
    "tests/report/suite/",
    "tests/test_docs.py",
)
"""Files whose tests start servers, kernels or validators."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: two processes take whole files in turn, and at the end one would wait for the other."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
