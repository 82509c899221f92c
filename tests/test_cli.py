"""What cannot be meant on the command line is a sentence and exit code 2; a crash of our own is no verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks import cli
from djinn_checks.cli import main


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "99999"),
        ("--port", "-1"),
        ("--port", "x"),
        ("--host", "a" * 70),
        ("--device", "gpu"),
        ("--session-tokens", "0"),
        ("--max-sessions", "-5"),
        ("--kv-device-gb", "0"),
    ],
)
def test_what_a_server_cannot_be_given_is_refused_in_a_sentence(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", f"{option}={value}"])
    said = capsys.readouterr().err
    assert f"argument {option}" in said
    assert "Traceback" not in said


def test_a_crash_of_ours_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(cli, "_render", broken)
    assert main(["render", str(tmp_path)]) == 6
    said = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in said
    assert "please report" in said
    assert "  6  djinn-checks itself crashed" in cli.EXIT_CODES
