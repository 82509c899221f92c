"""Under which names the server lets itself be asked.

A page that a browser shows may have its own host's name point to 127.0.0.1, and then ask whatever listens there as if
it were its own server (DNS rebinding). The browser still sends the name that it believes in. So who comes over
loopback has to ask for loopback, or for a name that the server was given. (No browser leaves the name out.)
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from djinn_checks.server.listening import is_loopback
from djinn_checks.server.schema import error_response


class KnownHosts:
    """Refuses a request over loopback that asks for a host of another name."""

    def __init__(self, app: ASGIApp, also: Iterable[str] = ()) -> None:
        """Answer for loopback's names, and for these."""
        self._app, self._also = app, {name.lower() for name in also}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        told = (
            f"the Host header asks for {reprlib.repr(_host_of(scope))}, and over loopback this server answers for "
            "localhost alone; ask for that, or start it with --allow-host and this name"
        )
        body = error_response(told, kind="invalid_request_error", code="unknown_host")
        await JSONResponse(body, status_code=421)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        address, host = (scope.get("server") or ("",))[0], _host_of(scope)
        return not host or not is_loopback(address) or is_loopback(host) or host.lower() in self._also


def _host_of(scope: Scope) -> str:
    """Return the host that a request names, without its port; empty if it names none."""
    said = str(dict(scope["headers"]).get(b"host", b""), "latin-1")
    name, colon, port = said.rpartition(":")
    return name if colon and port.isdigit() else said
