"""A run's folder is removed when nobody owns it any more, and nothing else is."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from djinn_checks.errors import RunnerError
from djinn_checks.outcome import Status
from djinn_checks.suite import limits
from djinn_checks.suite.limits import describe_limits, owner_may
from djinn_checks.suite.lock import alone_in
from djinn_checks.suite.scratch import scratch_folder, sweep
from tests.suite.runs import SAVE, run


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary folder of its own."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_folder_without_a_living_owner_is_swept_and_what_may_be_anothers_stays(temporary: Path) -> None:
    with scratch_folder() as living:
        says = (living / ".owner").read_bytes()
        left, foreign, other_words, file = (temporary / f"djinn-checks-run-{name}" for name in "abcd")
        for folder in (left, foreign, other_words):
            folder.mkdir()
            (folder / "data").write_text("data")
        (left / ".owner").write_bytes(says)
        (other_words / ".owner").write_bytes(b"mine")
        file.write_bytes(says)
        elsewhere = temporary / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / ".owner").write_bytes(says)
        (temporary / "djinn-checks-run-link").symlink_to(elsewhere)
        sweep()
        kept = {"elsewhere", "djinn-checks-run-link", living.name, foreign.name, other_words.name, file.name}
        assert {place.name for place in temporary.iterdir()} == kept
        assert (elsewhere / ".owner").exists()
    assert not living.exists()


def test_an_owner_file_that_is_a_pipe_holds_nobody_up(temporary: Path) -> None:
    folder = temporary / "djinn-checks-run-pipe"
    folder.mkdir()
    os.mkfifo(folder / ".owner")
    sweep()
    assert folder.is_dir()


def test_a_run_holds_its_folder_even_if_that_is_removed_and_made_again(tmp_path: Path, temporary: Path) -> None:
    out = tmp_path / "out"
    with alone_in(out):
        out.rmdir()
        with pytest.raises(RunnerError, match="another run writes there"), alone_in(out):
            pass
        with alone_in(tmp_path / "other"):
            pass
    with alone_in(out):
        pass


def test_where_no_lock_can_be_kept_beside_the_folder_its_own_still_holds(tmp_path: Path, temporary: Path) -> None:
    (temporary / f"djinn-checks-locks-{os.geteuid()}").write_text("in the way")
    with alone_in(tmp_path / "out"), pytest.raises(RunnerError), alone_in(tmp_path / "out"):
        pass


def test_limits_that_are_tight_are_told_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to = {limit.kind: limits.resource.RLIM_INFINITY for limit in limits._LIMITS}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda kind: (set_to[kind], set_to[kind]))
    assert describe_limits() == ""
    set_to[limits.resource.RLIMIT_NOFILE] = 65_536
    assert describe_limits() == ""
    set_to |= {limits.resource.RLIMIT_NOFILE: 40, limits.resource.RLIMIT_AS: 600_000_000}
    assert "40 open files (ulimit -n), 600 MB of addresses (ulimit -v), which may be why" in describe_limits()


def test_a_umask_that_takes_the_owners_rights_is_borne_and_others_get_no_more(tmp_path: Path) -> None:
    before = os.umask(0o277)  # what is written cannot be written again, not even by its owner
    try:
        with owner_may():
            (tmp_path / "file").write_text("")
        result = run(tmp_path, SAVE)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert result.outcome.status is Status.PASS
