"""What cannot be meant on the command line is a sentence and exit code 2; a crash of our own is no verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.commands import finished
from djinn_checks.commands.exit_codes import EXIT_CODES


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

    monkeypatch.setattr(finished, "_render", broken)
    assert main(["render", str(tmp_path)]) == 6
    said = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in said
    assert "please report" in said
    assert "  6  djinn-checks itself crashed" in EXIT_CODES


FIGURE = Path(__file__).parent / "data" / "plausible" / "impossible-pocketllm-goal.yaml"
COMMAND = [sys.executable, "-m", "djinn_checks", "plausible"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_nobody_reads_was_not_said_and_is_no_verdict(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    assert_unsaid(writing, unbuffered, "Broken pipe")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_what_goes_to_a_full_disk_was_not_said_and_is_no_verdict(unbuffered: str) -> None:
    assert_unsaid(os.open("/dev/full", os.O_WRONLY), unbuffered, "No space left on device")


def assert_unsaid(output: int, unbuffered: str, says: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run([*COMMAND, str(FIGURE)], stdout=output, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(output)
    assert run.returncode == 5
    assert run.stderr == f"djinn-checks: {says}, where it writes or prints; not all is done\n"
