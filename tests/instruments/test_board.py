"""A board's fields are read whole, whatever its writer is doing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from djinn_checks.instruments.board import Board, open_counters

_WRITER = """
import sys
from pathlib import Path
from djinn_checks.instruments.board import Board
board = Board(Path(sys.argv[1]))
while True:
    for value in VALUES:
        board.write("rx", value)
"""
_VALUES = (0x0101010101010101, 0x0202020202020202)
_READINGS, _MOST_S = 50_000, 1.0


def test_a_field_is_read_as_it_was_written_while_another_process_writes_it(tmp_path: Path) -> None:
    board = Board(tmp_path / "board")
    program = _WRITER.replace("VALUES", repr(_VALUES))
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "board")]) as writer:
        try:
            deadline = time.monotonic() + 30
            while board.read("rx") == 0 and time.monotonic() < deadline:
                time.sleep(0.005)
            until = time.monotonic() + _MOST_S
            seen = {board.read("rx") for _ in range(_READINGS) if time.monotonic() < until}
        finally:
            writer.kill()

    assert seen <= set(_VALUES), "a field was seen half written"
    assert seen


def test_counters_never_go_back_but_by_a_wrap(tmp_path: Path) -> None:
    board, read = Board(tmp_path / "board"), open_counters(tmp_path / "board")
    board.write("rx", 2**32 - 20_000)

    before, (after, _) = read()[0], read()

    assert before == 2**32 - 6_000
    assert after == 8_000
