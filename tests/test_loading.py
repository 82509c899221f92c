"""While modules are loaded no garbage is looked for, and afterwards it is as before, whatever happened."""

from __future__ import annotations

import gc

import pytest

import djinn_checks
from djinn_checks.loading import uncollected


def load_what_is_not_there() -> None:
    assert not gc.isenabled()
    raise ImportError


@pytest.mark.parametrize("before", [True, False])
def test_looking_for_garbage_goes_on_afterwards_if_it_did_before(before: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if before else gc.disable)()
        with pytest.raises(ImportError), uncollected():
            load_what_is_not_there()
        assert gc.isenabled() is before
    finally:
        (gc.enable if was else gc.disable)()


def test_a_public_name_is_loaded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def load(name: str) -> object:
        seen.append(gc.isenabled())
        return pytest

    monkeypatch.setattr(djinn_checks.importlib, "import_module", load)
    monkeypatch.setitem(djinn_checks._HOMES, "skip", "somewhere")
    assert djinn_checks.skip is pytest.skip
    assert (seen, gc.isenabled()) == ([False], True)
