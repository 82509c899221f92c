"""An engine that gives the answers of a script, and the application over it, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import torch
from fastapi import FastAPI

from djinn_checks.engine.turn import Listener, Token, TurnEnd, TurnRequest
from djinn_checks.models.open import Model, open_model
from djinn_checks.server.app import create_app
from djinn_checks.server.metrics import Metrics

CPU = torch.device("cpu")


def turn_end(reason: str, **given: Any) -> TurnEnd:
    spent: dict[str, Any] = {"queue_s": 0.0, "restore_s": 0.0, "first_token_s": 0.0, "decode_s": 0.0}
    return TurnEnd(reason=reason, **(spent | {"prefilled_tokens": 1, "reused_tokens": 0} | given))


class FakeEngine:
    """Gives each turn the same events; a turn that is cancelled ends as such, unless it has ended."""

    def __init__(self, events: Sequence[Token | TurnEnd | Exception] = ()) -> None:
        self._events = events
        self.asked: list[TurnRequest] = []
        self.cancelled: list[Any] = []
        self.failure: Exception | None = None
        self.graphs: Any = None
        memory, pool = SimpleNamespace(device=CPU, limit_bytes=1), SimpleNamespace(limit_bytes=1)
        self.store = SimpleNamespace(memory=memory, pool=pool, shape=SimpleNamespace(token_bytes=1))

    def submit(self, session_id: str, request: TurnRequest, listener: Listener, *, anonymous: bool = False) -> Any:
        self.asked.append(request)
        for event in self._events:
            listener(event)
        return SimpleNamespace(listener=listener, is_over=any(isinstance(one, TurnEnd) for one in self._events))

    def cancel(self, turn: Any) -> None:
        self.cancelled.append(turn)
        if not turn.is_over:
            turn.listener(turn_end("cancelled", reused_tokens=7, decode_s=0.5))


def tiny() -> Model:
    return open_model("random:tiny", dtype=torch.float32, device=CPU)


def application(
    engine: FakeEngine, model: Model | None = None, session_tokens: int = 200, hosts: Sequence[str] = ()
) -> FastAPI:
    used: Any = engine
    return create_app(
        model or tiny(), used, metrics=Metrics(), session_tokens=session_tokens, end_ids=frozenset(), hosts=hosts
    )


def call(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fake")
