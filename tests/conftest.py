"""How the tests are run: properties without a time limit for each example, since other tests use the cores meanwhile,
the longest files first, and no looking for garbage among what was imported.
"""

from __future__ import annotations

import gc

import pytest
from hypothesis import settings

settings.register_profile("djinn-checks", deadline=None)
settings.load_profile("djinn-checks")

_FIRST = (
    "tests/checks/agents/test_check.py",
    "tests/checks/logits/test_check.py",
    "tests/test_docs.py",
    "tests/faults/",
    "tests/report/test_accessibility.py",
    "tests/suite/test_kills.py",
    "tests/suite/test_folder.py",
    "tests/server/test_server.py",
    "tests/suite/test_runner.py",
    "tests/checks/agents/test_pool.py",
    "tests/checks/logits/test_watch.py",
    "tests/server/",
    "tests/report/notebook/",
    "tests/checks/agents/",
    "tests/suite/",
    "tests/checks/",
    "tests/models/",
    "tests/engine/",
    "tests/report/",
)
"""Files by what they take, the longest first; those that wait for servers in turn with those that compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: processes take whole files in turn, and at the end one would wait for the others."""
    items.sort(
        key=lambda item: next((n for n, begin in enumerate(_FIRST) if item.nodeid.startswith(begin)), len(_FIRST))
    )


def pytest_sessionstart() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage from here on, and not among modules: each look of a check would take a fifth of a second."""
    gc.enable()
    gc.collect()
    gc.freeze()
