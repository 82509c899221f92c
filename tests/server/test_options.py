"""What `serve` does when it is told nothing is said in one place."""

from __future__ import annotations

import dataclasses

import pytest

from djinn_checks import cli
from djinn_checks.server.options import ServeOptions


def test_the_command_line_has_every_option_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ServeOptions] = []
    monkeypatch.setattr("djinn_checks.server.serve.serve", lambda options, *, bound: told.append(options))
    monkeypatch.setattr("djinn_checks.commands.serve.listen", lambda options: None)
    assert cli.main(["serve"]) == 0
    assert told == [ServeOptions()]
    changed = ["--port", "7", "--kv-device-gb", "0.5", "--device", "cpu", "--no-recording", "--allow-host", "a.example"]
    assert cli.main(["serve", *changed]) == 0
    expected = dataclasses.replace(ServeOptions(), port=7, kv_device_gb=0.5, device="cpu", recording=False)
    assert told[1:] == [dataclasses.replace(expected, allow_hosts=["a.example"])]


def test_a_device_that_cannot_be_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["serve", "--port", "0", "--device", "gpu"])
    assert stopped.value.code == 2
    assert "--device: expected auto, cpu, cuda or cuda:<index>, got 'gpu'" in capsys.readouterr().err
