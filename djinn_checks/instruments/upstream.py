"""Whether the process that listens at an address passes on what it is asked: a proxy's memory is no server's.

Seen from outside: while requests are answered, a proxy has a connection to whom it asks, which is neither one of its
clients nor a process of its own.
"""

from __future__ import annotations

import threading
from typing import Self

import psutil

_PERIOD_S = 0.05


class UpstreamWatch:
    """Looks 20 times per second at a process's connections, as a context manager.

    Attributes:
        found: an address that the process asks; empty as long as none was seen.
    """

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.found = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upstream-watch", daemon=True)

    @property
    def reason(self) -> str:
        """Why the process's memory is not the server's; empty if nothing speaks against it."""
        if not self.found:
            return ""
        return (
            f"process {self._process.pid}, which listens, passes requests on to {self.found}: its memory is not the "
            "server's; give server_pid"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self.found and not self._stop.wait(_PERIOD_S):
            try:
                self.found = self._look()
            except psutil.Error:
                return  # the process is gone, or it is another user's

    def _look(self) -> str:
        own = [self._process, *self._process.children(recursive=True)]
        connections = [tcp for process in own for tcp in process.net_connections("tcp")]
        ports = {tcp.laddr.port for tcp in connections if tcp.status == psutil.CONN_LISTEN}
        ends = {(tcp.laddr.ip, tcp.laddr.port) for tcp in connections if tcp.laddr}
        for tcp in connections:
            is_asked = tcp.laddr.port in ports or (tcp.raddr and (tcp.raddr.ip, tcp.raddr.port) in ends)
            if tcp.status == psutil.CONN_ESTABLISHED and tcp.raddr and not is_asked:
                return f"{tcp.raddr.ip}:{tcp.raddr.port}"
        return ""
