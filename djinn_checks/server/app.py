"""The HTTP interface: routes, limits, and errors with the status that they deserve.

Nothing that a client sent is ever logged. Generation runs in the engine's thread; handlers only wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.errors import (
    BusyError,
    DjinnChecksError,
    KvCapacityError,
    KvDigestError,
    RequestError,
    UnknownSessionError,
)
from djinn_checks.models import Model
from djinn_checks.server.completions import Completions
from djinn_checks.server.metrics import Metrics
from djinn_checks.server.schema import (
    Completion,
    CompletionRequest,
    ErrorResponse,
    Health,
    PhaseRequest,
    SessionId,
    SessionList,
    SessionView,
    error_response,
)
from djinn_checks.server.sessions import Sessions

_log = logging.getLogger(__name__)

MOST_BODY_BYTES = 4_000_000

_KINDS: tuple[tuple[type[BaseException], int, str, str], ...] = (
    (RequestError, 400, "invalid_request_error", "invalid_request"),
    (UnknownSessionError, 404, "invalid_request_error", "unknown_session"),
    (BusyError, 429, "overloaded_error", "busy"),
    (KvCapacityError, 503, "capacity_error", "kv_capacity"),
    (torch.OutOfMemoryError, 503, "capacity_error", "out_of_memory"),
    (KvDigestError, 500, "server_error", "kv_digest_mismatch"),
)
"""Error, HTTP status, type and code in the body. Anything else is a 500 that says nothing about its cause."""

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in (
        (400, "the request cannot be right"),
        (404, "no such session"),
        (413, "the body is too large"),
        (422, "never given; bad requests are 400"),
        (429, "too many sessions or requests, or the session is busy"),
        (500, "a session's KV cache came back changed, or a defect"),
        (503, "no room for the session's KV cache"),
    )
}


def create_app(
    model: Model, engine: AgentEngine, *, metrics: Metrics, session_tokens: int, end_ids: frozenset[int]
) -> FastAPI:
    """Return the application; it starts the engine when it starts and stops it when it ends."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="djinn-checks agent server", lifespan=life, responses=_ERRORS)
    app.add_middleware(BodyLimit, most_bytes=MOST_BODY_BYTES)
    sessions = Sessions(engine)
    completions = Completions(model, sessions, end_ids=end_ids, session_tokens=session_tokens)
    _add_errors(app)

    @app.post("/v1/completions", response_model=Completion, responses={200: {"content": {"text/event-stream": {}}}})
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        if not asked.stream:
            whole = await _unless_gone(request, completions.whole(asked))
            return JSONResponse(whole.model_dump(exclude_none=True)) if whole else Response(status_code=499)
        parts = completions.stream(asked)
        first = await anext(parts)  # refusals come before the stream begins, with a status of their own
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(_events(first, parts, usage), media_type="text/event-stream")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": model.name, "object": "model", "owned_by": "djinn-checks"}]}

    @app.get("/v1/sessions")
    async def list_sessions() -> SessionList:
        return SessionList(sessions=await sessions.list())

    @app.post("/v1/sessions/{session_id}/phase")
    async def phase(session_id: SessionId, body: PhaseRequest) -> SessionView:
        return await sessions.phase(session_id, body.phase)

    @app.delete("/v1/sessions/{session_id}")
    async def close(session_id: SessionId) -> SessionView:
        return await sessions.close(session_id)

    @app.get("/health")
    async def health() -> Health:
        store = engine.store
        return Health(
            model=model.name,
            device=str(store.memory.device),
            kv_token_bytes=store.shape.token_bytes,
            kv_device_bytes=store.memory.limit_bytes,
            kv_host_bytes=store.pool.limit_bytes,
        )

    @app.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return app


async def _events(first: Completion, parts: AsyncGenerator[Completion], usage: bool) -> AsyncIterator[str]:
    """Give server-sent events. An error in the middle is an event of its own, after which the stream ends."""
    try:
        yield _event(first, usage)
        async for part in parts:
            yield _event(part, usage)
    except Exception as error:
        yield f"data: {json.dumps(_describe(error)[1])}\n\n"
    finally:
        await parts.aclose()
    yield "data: [DONE]\n\n"


def _event(part: Completion, usage: bool) -> str:
    return f"data: {part.model_dump_json(exclude_none=True, exclude=None if usage else {'usage'})}\n\n"


async def _unless_gone(request: Request, work: Any) -> Any:
    """Await work, and cancel it when the client goes away. Return None then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _describe(error: BaseException) -> tuple[int, dict[str, Any]]:
    for kind, status, name, code in _KINDS:
        if isinstance(error, kind):
            return status, error_response(str(error), kind=name, code=code)
    if isinstance(error, DjinnChecksError):
        return 500, error_response(str(error), kind="server_error", code="engine_error")
    _log.error("a request failed: %s", type(error).__name__)
    return 500, error_response("an internal error; see the server's log", kind="server_error", code="internal_error")


def _add_errors(app: FastAPI) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        status, body = _describe(error)
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse(body, status_code=status, headers=headers)

    async def invalid(request: Request, error: Exception) -> Response:
        problems = error.errors() if isinstance(error, RequestValidationError) else []
        told = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in problems[:5])
        body = error_response(told or "not valid", kind="invalid_request_error", code="invalid_request")
        return JSONResponse(body, status_code=400)

    async def other(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        told = str(error.detail) if isinstance(error, HTTPException) else "error"
        body = error_response(told, kind="invalid_request_error", code="http_error")
        return JSONResponse(body, status_code=status, headers=headers)

    for kind in (DjinnChecksError, torch.OutOfMemoryError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, other)


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
