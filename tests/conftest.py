"""How the tests are run: properties without a time limit for each example, since other tests use the cores meanwhile,
the longest files first, and no looking for garbage among what was imported.
"""

from __future__ import annotations

import gc

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


def pytest_sessionstart() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and not among modules: each look of a check would take a fifth of a second."""
    gc.enable()
    gc.collect()
    gc.freeze()
