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

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.errors import WrongModelError
from djinn_checks.models.open import Model
from djinn_checks.server.body_limit import BodyLimit
from djinn_checks.server.chat import Chats
from djinn_checks.server.chat_schema import ChatChunk, ChatCompletion, ChatRequest
from djinn_checks.server.completions import Completions
from djinn_checks.server.error_answers import ERRORS, add_errors, describe
from djinn_checks.server.fields import SessionId
from djinn_checks.server.hosts import KnownHosts
from djinn_checks.server.metrics import Metrics
from djinn_checks.server.reference_page import route_reference
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

Part = Completion | ChatChunk
"""What a stream consists of."""


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

    title = "djinn-checks agent server"  # FastAPI's own pages load scripts from a CDN
    app = FastAPI(title=title, lifespan=life, responses=ERRORS, docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit, most_bytes=MOST_BODY_BYTES)
    add_errors(app)
    app.add_middleware(KnownHosts, also=frozenset(hosts))
    sessions = Sessions(engine)
    completions = Completions(model, sessions, end_ids=end_ids, session_tokens=session_tokens)
    app.include_router(route_completions(completions))
    app.include_router(route_chats(Chats(model, completions, session_tokens=session_tokens)))
    app.include_router(route_sessions(sessions))
    app.include_router(route_facts(model, engine, metrics))
    app.include_router(route_reference(app))
    return app


def route_completions(completions: Completions) -> APIRouter:
    """Return the route that continues texts, whole or as a stream."""
    router = APIRouter()

    @router.post("/v1/completions", response_model=Completion, responses={200: {"content": {"text/event-stream": {}}}})
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Continue a prompt."""
        return await _answer(asked, request, completions)

    return router


def route_chats(chats: Chats) -> APIRouter:
    """Return the route that answers chats, whole or as a stream."""
    router = APIRouter()
    streamed: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses=streamed)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer a chat, by the template of the model's own."""
        return await _answer(asked, request, chats)

    return router


async def _answer(asked: Any, request: Request, answers: Any) -> Response:
    """Return what was asked for, whole or as a stream. `answers` has a method for each."""
    if not asked.stream:
        whole = await _unless_gone(request, answers.whole(asked))
        return JSONResponse(whole.model_dump(exclude_none=True)) if whole else Response(status_code=499)
    parts = answers.stream(asked)
    # Refusals come before the stream begins, with a status of their own.
    first = await _unless_gone(request, anext(parts))
    if first is None:
        return Response(status_code=499)
    usage = asked.stream_options is not None and asked.stream_options.include_usage
    return StreamingResponse(_events(first, parts, usage), media_type="text/event-stream")


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
            raise WrongModelError(f"model: no such model here; expected {model.name!r}, which is all that is served")
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


async def _events(first: Part, parts: AsyncGenerator[Part], usage: bool) -> AsyncIterator[str]:
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


def _event(part: Part, *, usage: bool = False) -> str:
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
