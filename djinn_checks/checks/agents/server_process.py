"""A server under check, as a process of its own: started, waited for, ended, and its last words kept.

It is killed with whoever started it, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Self

from djinn_checks.errors import ServerKilledError, SystemUnavailableError
from djinn_checks.processes import module_command, tied

_READY = re.compile(r"serving .* at (http://\S+)")
OWN_SERVER = (*module_command("djinn_checks"), "serve")


class ServerProcess:
    """A server that says "serving <model> at <address>" on its standard output when it listens.

    Attributes:
        address: where it listens.
    """

    def __init__(
        self, arguments: Sequence[str], *, command: Sequence[str] = OWN_SERVER, timeout_s: float = 300
    ) -> None:
        """Start it and wait until it listens.

        Raises:
            ServerKilledError: it was ended by a signal that did not come from here, as for want of memory.
            SystemUnavailableError: it ended by itself, or did not listen in time.
        """
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            tied([*command, *arguments]),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self.address = self._wait_for_address(timeout_s)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def last_output(self) -> str:
        """Return the end of what it wrote to standard error."""
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-2000:]

    def stop(self, grace_s: float = 30) -> int | None:
        """End it with SIGTERM, and with SIGKILL if it takes too long. Return its exit status."""
        if self.is_alive:
            self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._errors.close()

    def _wait_for_address(self, timeout_s: float) -> str:
        watch = threading.Timer(timeout_s, self._process.kill)  # ends the reading below
        watch.start()
        started = time.monotonic()
        try:
            for line in self._process.stdout or ():
                found = _READY.search(line)
                if found:
                    return found.group(1)
        finally:
            watch.cancel()
        self._process.wait()
        waited, said = time.monotonic() - started, self.last_output().strip() or "it said nothing"
        code = self._process.returncode
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, 9)
        if code < 0 and waited < timeout_s:
            raise ServerKilledError(
                f"the agent server was ended by {signal.Signals(-code).name} after {waited:.0f} s, before it listened; "
                f"somebody killed it, or the operating system did, for want of memory perhaps: {said}"
            )
        raise SystemUnavailableError(
            f"the agent server ended or was ended after {waited:.0f} s without listening (exit status {code}): {said}"
        )
