"""Errors become answers, each with the status that it deserves and a body in OpenAI's form.

What a client sent may be in its own answer; it is never in the log, and neither is the text of an error.
"""

from __future__ import annotations

import http
import logging
import reprlib
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from djinn_checks.errors import (
    BusyError,
    DjinnChecksError,
    KvCapacityError,
    KvDigestError,
    RequestError,
    SessionClosedError,
    UnknownSessionError,
    WrongModelError,
)
from djinn_checks.server.schema import ErrorResponse, error_response

_log = logging.getLogger(__name__)

_KINDS: tuple[tuple[type[BaseException], int, str, str], ...] = (
    (WrongModelError, 404, "invalid_request_error", "model_not_found"),
    (RequestError, 400, "invalid_request_error", "invalid_request"),
    (UnknownSessionError, 404, "invalid_request_error", "unknown_session"),
    (SessionClosedError, 409, "conflict_error", "session_closed"),
    (BusyError, 429, "overloaded_error", "busy"),
    (KvCapacityError, 503, "capacity_error", "kv_capacity"),
    (torch.OutOfMemoryError, 503, "capacity_error", "out_of_memory"),
    (KvDigestError, 500, "server_error", "kv_digest_mismatch"),
)
"""Error, HTTP status, type and code in the body. Anything else is a 500 that says nothing about its cause."""

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in (
        (400, "the request cannot be right"),
        (404, "no such session, no such route, or a model that is not served"),
        (409, "another request closed the session in the middle of this one"),
        (413, "the body is too large"),
        (421, "over loopback, a Host header that is neither loopback's nor one of --allow-host"),
        (422, "never given; bad requests are 400"),
        (429, "too many sessions or requests, or the session is busy"),
        (500, "a session's KV cache came back changed, or a defect"),
        (503, "no room for the session's KV cache, or the engine has ended"),
    )
}
"""What the OpenAPI document says about them."""


def describe(error: BaseException) -> tuple[int, dict[str, Any]]:
    """Return the status and the body for an error. One that nobody expected is logged, without its text."""
    for kind, status, name, code in _KINDS:
        if isinstance(error, kind):
            param = str(error).partition(":")[0] if isinstance(error, RequestError) else None
            return status, error_response(str(error), kind=name, code=code, param=param)
    if isinstance(error, DjinnChecksError):
        return 500, error_response(str(error), kind="server_error", code="engine_error")
    _log.error("a request failed: %s at %s", type(error).__name__, _places(error))
    return 500, error_response("an internal error; see the server's log", kind="server_error", code="internal_error")


def add_errors(app: FastAPI) -> None:
    """Have an application answer its errors."""
    for kind in (DjinnChecksError, torch.OutOfMemoryError):
        app.add_exception_handler(kind, _answer)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_middleware(_Defects)


async def _answer(request: Request, error: Exception) -> Response:
    status, body = describe(error)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body, status_code=status, headers=headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    told = "; ".join(map(_tell, problems[:5]))
    told = told.encode(errors="backslashreplace").decode()  # JSON can name what UTF-8 cannot
    fields = [_name(problem) for problem in problems if problem["type"] != "json_invalid" and _name(problem)]
    body = error_response(
        told or "not valid", kind="invalid_request_error", code="invalid_request", param=fields[0] if fields else None
    )
    return JSONResponse(body, status_code=400)


def _tell(problem: Mapping[str, Any]) -> str:
    """Return a sentence about what is wrong with a body."""
    if problem["type"] == "json_invalid":
        return f"the body is not JSON: {problem['ctx']['error']} at character {problem['loc'][-1]}"
    if problem["type"] == "missing":
        return f"{_name(problem)}: Field required, and it is missing" if _name(problem) else "the body is missing"
    return f"{_name(problem) or 'the body'}: {problem['msg']}"


def _name(problem: Mapping[str, Any]) -> str:
    """Return the name of the field that a problem is about."""
    return ".".join(map(str, problem["loc"][1:])).encode(errors="backslashreplace").decode()


async def _answer_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    told = str(error.detail) if isinstance(error, HTTPException) else "error"
    if status in (404, 405) and told == http.HTTPStatus(status).phrase:
        wrong = "no such route" if status == 404 else "the route does not take this method"
        told = f"{request.method} {reprlib.repr(request.url.path)}: {wrong}; /docs lists what there is"
    body = error_response(told, kind="invalid_request_error", code="http_error")
    return JSONResponse(body, status_code=status, headers=headers)


def _places(error: BaseException) -> str:
    """Return where an error was raised, the innermost place last: files, lines and functions, no values."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)


class _Defects:
    """Answers what nothing else does. (A handler of `Exception` would have its text and traceback logged.)"""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False

        async def noted(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            status, body = describe(error)
            if not is_started:
                await JSONResponse(body, status_code=status)(scope, receive, send)
