"""Agent servers with a defect, each forked off one process that has imported everything once.

A server of its own takes seconds to import what it needs. Forked, it serves after some tenths of a second, and is
a process of its own all the same: its memory is its own, it listens at its own port, and it may die.

The process that forks is `python -m djinn_checks.faults.agents.nursery FOLDER`. It reads one JSON line for each server
from a named pipe in that folder, so that the processes of a pool can share one, and has touched neither a GPU nor a
thread pool, which would not survive a fork. It ends when nobody has the pipe open for writing any more.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.kv_store import KvStore
from djinn_checks.engine.session_moves import SessionMoves
from djinn_checks.errors import SystemUnavailableError
from djinn_checks.loading import uncollected
from djinn_checks.processes import end_with_parent, is_living, module_command

_START_S, _STOP_S = 120.0, 10.0
_POLL_S = 0.01
_ORDERS = "orders"


@dataclass(frozen=True, kw_only=True)
class Defect:
    """What stands in for the parts of a server, so that it goes wrong."""

    store: Callable[..., KvStore] = KvStore
    engine: type[AgentEngine] = AgentEngine
    moves: Callable[..., SessionMoves] = SessionMoves


class Nursery:
    """Has servers started by the process that forks. May be used from several threads, and by several processes.

    Attributes:
        folder: where servers say their address and what went wrong.
        pid: of the process that forks.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self._lock = threading.Lock()
        self._count = 0

    @contextlib.contextmanager
    def serve(self, defect: str, dose: float, options: Mapping[str, Any]) -> Iterator[str]:
        """Start a server and give its address; end it afterwards.

        Args:
            defect: "module:function"; the function takes a dose and returns a `Defect`.
            options: of `ServeOptions`.

        Raises:
            SystemUnavailableError: it ended, or did not listen in time.
        """
        with self._lock:
            self._count += 1
            order = _Order(name=f"{os.getpid()}-{self._count}", defect=defect, dose=dose, options=dict(options))
        self._send(json.dumps(vars(order)) + "\n")
        pid, address = self._wait(order)
        try:
            yield address
        finally:
            _end(pid)

    def _send(self, line: str) -> None:
        """Write a line in one piece, which no other process's falls into: it is shorter than PIPE_BUF."""
        try:
            pipe = os.open(self.folder / _ORDERS, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            raise SystemUnavailableError(
                f"the process that forks agent servers has ended: {self._said('log')}"
            ) from error
        try:
            os.write(pipe, line.encode())
        finally:
            os.close(pipe)

    def _wait(self, order: _Order) -> tuple[int, str]:
        answer, end = self.folder / f"{order.name}.answer", time.monotonic() + _START_S
        while time.monotonic() < end and self._is_living():
            if answer.is_file():
                told = json.loads(answer.read_text())
                if "address" in told:
                    return int(told["pid"]), str(told["address"])
                raise SystemUnavailableError(f"the agent server with {order.defect} did not start: {told['error']}")
            time.sleep(_POLL_S)
        raise SystemUnavailableError(f"the agent server with {order.defect} did not listen: {self._said('log')}")

    def _is_living(self) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            return is_living(psutil.Process(self.pid))
        return False

    def _said(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / name).read_text(errors="replace")[-2000:]
        return "it said nothing"


class OwnNursery(Nursery):
    """A nursery and the process that forks, which ends with the one that started it."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="djinn-checks-nursery-")
        folder = Path(self._place.name)
        os.mkfifo(folder / _ORDERS)
        self._open = os.open(folder / _ORDERS, os.O_RDWR)
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [*module_command("djinn_checks.faults.agents.nursery"), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many processes run at once as there are cores
        )
        super().__init__(folder, self._process.pid)
        # Unlike `atexit`, this is also heard in the processes of a pool.
        self._finalize = Finalize(self, self._close, exitpriority=10)

    def close(self) -> None:
        """End the process that forks, and with it everything it has forked."""
        self._finalize()

    def _close(self) -> None:
        os.close(self._open)
        self._process.wait()
        self._log.close()
        self._place.cleanup()


_joined: list[Nursery] = []


def nursery() -> Nursery:
    """Return this process's nursery: the one that it joined, or else its own, started when it is first asked for."""
    return _joined[0] if _joined else own_nursery()


@cache
def own_nursery() -> OwnNursery:
    """Return the nursery that this process has started."""
    return OwnNursery()


def join_nursery(folder: Path, pid: int) -> None:
    """Use the nursery of another process from here on."""
    _joined[:] = [Nursery(folder, pid)]


@dataclass(frozen=True, kw_only=True)
class _Order:
    """One server to start."""

    name: str
    defect: str
    dose: float
    options: dict[str, Any] = field(default_factory=dict)


def _end(pid: int) -> None:
    """End a server, gently if it lets itself be ended so. It is another process's child, so it is only looked at."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(_STOP_S)
            return
        process.kill()
        process.wait()


# In the process that forks


def main(folder: Path) -> None:
    """Fork a server for each line of the pipe, and end them all with it."""
    with uncollected():
        importlib.import_module("djinn_checks.server.serve")
        importlib.import_module("transformers.models.llama.modeling_llama")
    gc.freeze()  # whatever a server looks through for garbage, a page that it touches is copied, and its memory watched
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    children: list[int] = []
    parent, mine = os.getppid(), os.getpid()
    with (folder / _ORDERS).open() as orders:
        for line in orders:
            order = _Order(**json.loads(line))
            pid = os.fork()
            if pid == 0:
                end_with_parent(mine, signal.SIGKILL)
                orders.close()
                _become(order, folder)
            children.append(pid)
    for pid in children:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed, and removes nothing any more
        shutil.rmtree(folder, ignore_errors=True)


def _become(order: _Order, folder: Path) -> None:
    """Be a server until told to end. Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answer = folder / f"{order.name}.answer"
    code = 0
    try:
        _serve(order, lambda said: _tell(answer, {"pid": os.getpid(), "address": said.rpartition(" ")[2]}))
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        code = 1
        if not answer.exists():
            _tell(answer, {"error": f"{type(error).__name__}: {error}"})
    finally:
        sys.stdout.flush()
        os._exit(code)


def _serve(order: _Order, say: Callable[[str], None]) -> None:
    from djinn_checks.engine import agent_engine
    from djinn_checks.server import serve
    from djinn_checks.server.options import ServeOptions

    module, _, name = order.defect.partition(":")
    defect: Defect = getattr(importlib.import_module(module), name)(order.dose)
    # In this process alone, and before any of them is made.
    vars(agent_engine)["SessionMoves"] = defect.moves
    vars(serve)["AgentEngine"] = defect.engine
    serve.serve(ServeOptions(**order.options), make_store=defect.store, say=say)


def _tell(file: Path, what: Mapping[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(what))
    os.replace(part, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
