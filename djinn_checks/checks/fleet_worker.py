"""The process that drives one link.

    worker OPENER OPTIONS

It opens the link, says so, and then does what it is told, a line of JSON each; its answers are lines of JSON, too.
Every command names the instant at which it begins, so that all processes enter a stage together without waiting for one
another: one that dies or hangs keeps nobody. It ends when its input does.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any


def main() -> int:
    """Open the link and serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # ours alone: what libraries print goes to the error output
    os.dup2(2, 1)
    opener, options = sys.argv[1], json.loads(sys.argv[2])

    def answer(**said: Any) -> None:
        answers.write(json.dumps(said) + "\n")

    try:
        module, _, function = opener.partition(":")
        driver = getattr(importlib.import_module(module), function)(**options)
        answer(ready=driver.describe())

        def meet(found: Any) -> dict[str, Any]:
            """Answer in the midst of a command, and return what is told next."""
            answer(done={"found": found})
            line = sys.stdin.readline()
            if not line:
                raise SystemExit(0)  # whoever tells is gone
            told: dict[str, Any] = json.loads(line)
            return told

        driver.meet = meet
        while line := sys.stdin.readline():
            answer(done=do(driver, json.loads(line)))
    except Exception as error:
        traceback.print_exc()
        answer(failed=f"{type(error).__name__}: {error}")
        return 1
    return 0


def do(driver: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out a command and return what came of it, as plain data, with the time that it took."""
    name = command.pop("do")
    began = time.monotonic()
    found = getattr(driver, name)(**command)
    ended = time.monotonic()
    if isinstance(found, list):
        found = [dataclasses.asdict(part) for part in found]
    elif dataclasses.is_dataclass(found) and not isinstance(found, type):
        found = dataclasses.asdict(found)
    return {"began_s": began, "ended_s": ended, "found": found}


if __name__ == "__main__":
    sys.exit(main())
