"""Bodies that are too large are refused, by their declared length or as they come."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from djinn_checks.server.schema import error_response


class BodyLimit:
    """Refuses bodies that are too large, by their declared length or as they come."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app, self._most_bytes = app, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        count = int(declared) if declared.isdigit() else 0
        if count > self._most_bytes:
            await self._refuse(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                raise HTTPException(413, f"the body is larger than {self._most_bytes:,} bytes; send a shorter prompt")
            return message

        await self._app(scope, counted, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = f"the body is larger than {self._most_bytes:,} bytes; send a shorter prompt"
        body = error_response(told, kind="invalid_request_error", code="body_too_large")
        await JSONResponse(body, status_code=413)(scope, receive, send)
