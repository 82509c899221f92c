"""The HTTP interface: its routes.

Nothing that a client sent is ever logged. Generation runs in the engine's thread; handlers only wait.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.models.open import Model
from djinn_checks.server.body_limit import BodyLimit
from djinn_checks.server.completions import Completions
from djinn_checks.server.error_answers import ERRORS, add_errors, describe
from djinn_checks.server.fields import SessionId
from djinn_checks.server.hosts import KnownHosts
from djinn_checks.server.metrics import Metrics
from djinn_checks.server.schema import (
    Completion,
    CompletionRequest,
    Health,
    ModelList,
    ModelView,
    PhaseRequest,
    SessionList,
    SessionView,
    error_response,
)
from djinn_checks.server.sessions import Sessions

MOST_BODY_BYTES = 4_000_000


def create_app(
    model: Model,
    engine: AgentEngine,
    *,
    metrics: Metrics,
    session_tokens: int,
    end_ids: frozenset[int],
    hosts: Iterable[str] = (),
) -> FastAPI:
    """Return the application; it starts the engine when it starts and stops it when it ends.

    Args:
        hosts: names that it is asked by over loopback, beside loopback's own.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(title="djinn-checks agent server", lifespan=life, responses=ERRORS)
    app.add_middleware(BodyLimit, most_bytes=MOST_BODY_BYTES)
    add_errors(app)
    app.add_middleware(KnownHosts, also=frozenset(hosts))
    sessions = Sessions(engine)
    app.include_router(route_completions(Completions(model, sessions, end_ids=end_ids, session_tokens=session_tokens)))
    app.include_router(route_sessions(sessions))
    app.include_router(route_facts(model, engine, metrics))
    return app


def route_completions(completions: Completions) -> APIRouter:
    """Return the route that continues texts, whole or as a stream."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses={200: {"content": {"text/event-stream": {}}}})
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        if not asked.stream:
            whole = await _unless_gone(request, completions.whole(asked))
            return JSONResponse(whole.model_dump(exclude_none=True)) if whole else Response(status_code=499)
        parts = completions.stream(asked)
        # Refusals come before the stream begins, with a status of their own.
        first = await _unless_gone(request, anext(parts))
        if first is None:
            return Response(status_code=499)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(_events(first, parts, usage), media_type="text/event-stream")

    return router


def route_sessions(sessions: Sessions) -> APIRouter:
    """Return the routes that list sessions, put them to sleep, wake and close them."""
    router = APIRouter(prefix="/v1/sessions")

    @router.get("")
    async def list_sessions() -> SessionList:
        return SessionList(sessions=await sessions.list())

    @router.post("/{session_id}/phase")
    async def phase(session_id: SessionId, body: PhaseRequest) -> SessionView:
        return await sessions.phase(session_id, body.phase)

    @router.delete("/{session_id}")
    async def close(session_id: SessionId) -> SessionView:
        return await sessions.close(session_id)

    return router


def route_facts(model: Model, engine: AgentEngine, metrics: Metrics) -> APIRouter:
    """Return the routes that say what is served, whether it is well, and what it has counted."""
    router = APIRouter()

    started = int(time.time())

    @router.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ModelView(id=model.name, created=started)])

    @router.get("/v1/models/{name:path}")
    async def retrieve(name: str) -> ModelView:
        if name != model.name:
            raise HTTPException(404, f"no such model here; expected {model.name!r}, which is all that is served")
        return ModelView(id=model.name, created=started)

    @router.get("/health", response_model=Health)
    async def health() -> Health | Response:
        failure: Exception | None = getattr(engine, "failure", None)
        if failure is not None:
            told = f"the engine's thread has ended ({type(failure).__name__}); start the server again"
            return JSONResponse(error_response(told, kind="server_error", code="engine_failed"), status_code=503)
        store = engine.store
        return Health(
            model=model.name,
            device=str(store.memory.device),
            kv_token_bytes=store.shape.token_bytes,
            kv_device_bytes=store.memory.limit_bytes,
            kv_host_bytes=store.pool.limit_bytes,
            decode_recorded=engine.graphs is not None,
        )

    @router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _events(first: Completion, parts: AsyncGenerator[Completion], usage: bool) -> AsyncIterator[str]:
    """Give server-sent events. An error in the middle is an event of its own, after which the stream ends."""
    try:
        yield _event(first)
        async for part in parts:
            yield _event(part)
            if usage and part.usage is not None:
                yield _event(part.model_copy(update={"choices": []}), usage=True)
    except Exception as error:
        yield f"data: {json.dumps(describe(error)[1])}\n\n"
    finally:
        await parts.aclose()
    yield "data: [DONE]\n\n"


def _event(part: Completion, *, usage: bool = False) -> str:
    """Return a part as an event. The usage has one of its own, without choices, as OpenAI's streams have it."""
    return f"data: {part.model_dump_json(exclude_none=True, exclude=None if usage else {'usage'})}\n\n"


async def _unless_gone(request: Request, work: Any) -> Any:
    """Await work, and cancel it when the client goes away. Return None then."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
