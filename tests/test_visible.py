"""What others wrote reaches a terminal as letters, and moves, colours and turns nothing round."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.visible import make_visible
from tests.whole import whole

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202eSSAP\u2066\u200f\r\x08"


def test_controls_and_what_turns_letters_round_are_spelled_out() -> None:
    assert make_visible("a\tb\nc") == "a\tb\nc"
    assert make_visible("Zürich 日本 ✓ – 95.2\u00a0%") == "Zürich 日本 ✓ – 95.2\u00a0%"
    assert make_visible("\x1b[2J\u202e\U000e0041\x7f") == "\\x1b[2J\\u202e\\U000e0041\\x7f"
    every = "".join(map(chr, range(0x110000)))
    hidden = {unicodedata.category(letter) for letter in make_visible(every)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert hidden == {"Cc"}, "of tabs and ends of line"


@pytest.mark.parametrize("command", ["results", "compare", "render", "bad"])
def test_no_command_passes_on_what_a_terminal_would_obey(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = whole("logits", summary=HOSTILE, environment={"gpu": {"name": HOSTILE}})
    if command == "bad":
        (tmp_path / "logits.outcome.json").write_text(json.dumps(outcome.to_dict() | {"started_at": HOSTILE}))
        code = main(["results", str(tmp_path)])
    else:
        outcome.save(tmp_path / "logits.outcome.json")
        whole("pcie").save(tmp_path / f"pcie{HOSTILE.replace('/', '')}.outcome.json")
        code = main([command, str(tmp_path), *([str(tmp_path), "--all"] if command == "compare" else [])])
    said = capsys.readouterr()
    assert code == (5 if command == "bad" else 0), said
    letters = set(said.out + said.err) - {"\n", "\t"}
    assert {letter for letter in letters if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp")} == set()
    assert "\\x1b" in said.out + said.err
