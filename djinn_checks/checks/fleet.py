"""The processes that drive the links, one each: started together, told together, and none waited for in vain."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, Any, Self

from djinn_checks.processes import module_command, tied

_LAST_WORDS = 400
_ENDING_S = 3.0


class Worker:
    """One process, and what it says."""

    def __init__(self, name: str, opener: str, options: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        """Start it; `wait` hears that it is ready."""
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        command = [*module_command("djinn_checks.checks.fleet_worker"), opener, json.dumps(dict(options))]
        self._process = subprocess.Popen(
            tied(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **variables},
            text=True,
            bufsize=1,
        )
        self._said: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        if self._process.stdout:
            for line in self._process.stdout:
                self._said.put(line)
        self._said.put(None)

    def tell(self, command: Mapping[str, Any]) -> None:
        """Send a command; one to a process that is gone is heard of by `wait`."""
        try:
            if self._process.stdin:
                self._process.stdin.write(json.dumps(dict(command)) + "\n")
                self._process.stdin.flush()
        except (OSError, ValueError):
            return

    def wait(self, deadline_s: float) -> tuple[dict[str, Any] | None, str]:
        """Return its next answer, or None and why there is none until the deadline (CLOCK_MONOTONIC)."""
        try:
            line = self._said.get(timeout=max(0.0, deadline_s - time.monotonic()))
        except queue.Empty:
            return None, "it did not answer in time"
        if line is None:
            code = self._process.wait()
            return None, f"it ended with code {code}: {self._last_words()}"
        found: dict[str, Any] = json.loads(line)
        return (None, str(found["failed"])) if "failed" in found else (found, "")

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return (lines[-1] if lines else "it said nothing")[-_LAST_WORDS:]

    def end(self, *, at_once: bool = False) -> None:
        """Have it end: by the end of its input, and if that is not enough, or at once, by force."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(0.0 if at_once else _ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


class Fleet:
    """All processes of a run, as a context manager. One that is lost is named, ended, and told nothing more."""

    def __init__(self) -> None:
        """Have none yet."""
        self._workers: dict[str, Worker] = {}  # by their names, in the order in which they were added
        self.ready: dict[str, dict[str, Any]] = {}
        """What each said of itself when it was ready."""
        self.lost: dict[str, str] = {}
        """Why a process is no longer there, and when."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._workers.values():
            worker.end(at_once=exc[0] is not None)

    @property
    def names(self) -> list[str]:
        """Those that are there."""
        return list(self._workers)

    def add(self, name: str, opener: str, options: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        """Start a process; `gather` waits for it."""
        self._workers[name] = Worker(name, opener, options, variables)

    def gather(self, limit_s: float) -> None:
        """Wait until each is ready; those that are not within `limit_s` are lost."""
        for name, answer in self._collect(list(self._workers), limit_s, "while it made ready").items():
            self.ready[name] = answer.get("ready", {})

    def run(self, commands: Mapping[str, Mapping[str, Any]], limit_s: float, stage: str) -> dict[str, dict[str, Any]]:
        """Tell each process its command, and return what those answered that did within `limit_s`."""
        told = [name for name in commands if name in self._workers]
        for name in told:
            self._workers[name].tell(commands[name])
        return {name: answer["done"] for name, answer in self._collect(told, limit_s, f"in {stage}").items()}

    def _collect(self, names: list[str], limit_s: float, when: str) -> dict[str, dict[str, Any]]:
        deadline, answers = time.monotonic() + limit_s, {}
        for name in names:
            answer, why = self._workers[name].wait(deadline)
            if answer is None:
                self.lost[name] = f"{when}: {why}"
                self._workers.pop(name).end(at_once=True)
            else:
                answers[name] = answer
        return answers
