"""What is printed where GitHub runs it: a line of a job's log may be a command to the runner.

A line that begins with `::name::` after spaces, or holds `##[name]` anywhere, sets outputs, masks words or writes
annotations. Reasons, summaries and traces come from the system under check, so whatever is printed here is rewritten
to be no command, by its first bytes; our own annotations pass by a way of their own.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO, cast

_COMMAND = re.compile(r"(?P<before>(?:^|(?<=[\r\n]))\s*:):|(?P<older>##)\[")


def runs_on_github() -> bool:
    """Tell whether this is a step of a workflow."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


@contextlib.contextmanager
def without_commands() -> Iterator[None]:
    """Have nothing that is printed in the block be a workflow command. Elsewhere than on GitHub this does nothing."""
    if not runs_on_github():
        yield
        return
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Harmless(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def give_commands(lines: Sequence[str]) -> None:
    """Print workflow commands where they are commands, and nothing elsewhere."""
    if isinstance(sys.stdout, Harmless):
        sys.stdout.give(lines)


class Harmless:
    """A stream that passes on what is written to it with each command in it spelled out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""
        """What the line that is being written holds so far, as far as it matters."""

    def write(self, text: str) -> int:
        whole = _COMMAND.sub(_spell, self._line + text)
        self._stream.write(whole[len(self._line) :])
        line = whole.rpartition("\n")[2].rpartition("\r")[2]
        self._line = line if not line.strip(": \t") else f"x{line[-2:]}"
        return len(text)

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def give(self, lines: Sequence[str]) -> None:
        """Write lines as they are, each at the begin of one."""
        if self._line:
            self._stream.write("\n")
            self._line = ""
        for line in lines:
            self._stream.write(f"{line}\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _spell(found: re.Match[str]) -> str:
    return f"{found['before']}\\x3a" if found["before"] is not None else f"{found['older']}\\x5b"
