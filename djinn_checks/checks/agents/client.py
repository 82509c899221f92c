"""Speaks with agent servers over HTTP, one adapter a kind of server. Times are this side's own.

signal   djinn-checks' own server and its like: sessions in the request, phases by a route of their own
idle     the same without a word: an agent that sleeps only stops asking
slot     llama-server: a slot's KV is saved to a file and erased, and restored from it
none     any server with OpenAI's completions: nothing is known of its sessions
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from djinn_checks.errors import InstrumentError, NoRouteError, ParamsError, WrongAdapterError
from djinn_checks.server.hosts import is_loopback

_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
_LOGPROBS = 2
"""How many of the likeliest tokens a server is asked for at each place."""
_NO_ROUTE = (404, 405, 501)
"""How servers answer where they have no such route: llama-server with 501 if it was started without slots."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One turn as the client saw it."""

    ids: tuple[int, ...] = ()
    """Token ids; empty if the server gives none."""
    text: str = ""
    logprobs: tuple[float, ...] = ()
    """Of the tokens, as the server gave them; empty if it gives none."""
    runners_up: tuple[float, ...] = ()
    """The log-probabilities of the likeliest tokens at each place, one after the other."""
    sent_s: float = 0.0
    """CLOCK_MONOTONIC when the request was sent."""
    token_at_s: tuple[float, ...] = ()
    """When each part of the answer came."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server says it did not compute."""
    queue_s: float | None = None
    """Of the server's own account of the time to the first token; None if it gives none."""
    restore_s: float | None = None
    compute_s: float | None = None

    @property
    def wake_s(self) -> float:
        """Seconds from the request to its first token."""
        return self.token_at_s[0] - self.sent_s

    @property
    def end_s(self) -> float:
        """When the last part came."""
        return self.token_at_s[-1]

    @property
    def fingerprint(self) -> tuple[float, ...]:
        """Every number that the server gave about its arithmetic."""
        return self.logprobs + self.runners_up


@dataclass(frozen=True, kw_only=True)
class SessionRecord:
    """What a server says about a session; None where it does not say."""

    state: str | None = None
    swaps: int | None = None
    restores: int | None = None
    swapped_bytes: int | None = None
    """In all sleeps so far."""
    restored_bytes: int | None = None
    swap_s: float | None = None
    restore_s: float | None = None
    allocate_s: float | None = None
    """Memory for the restore, if the server counts it apart."""
    digest_s: float | None = None
    """What the last move waited for its digest."""
    digest_out: str | None = None
    digest_in: str | None = None


@dataclass
class _Parts:
    """A reply that is still coming."""

    sent_s: float
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    runners_up: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def reply(self) -> Reply:
        if not self.times:
            raise InstrumentError("the server ended its answer without a token")
        return Reply(
            ids=tuple(self.ids),
            text=self.text,
            logprobs=tuple(self.logprobs),
            runners_up=tuple(self.runners_up),
            sent_s=self.sent_s,
            token_at_s=tuple(self.times),
            **self.fields,
        )


class AgentClient:
    """A server of kind `none`, and what all kinds share. Every method may raise `InstrumentError`."""

    has_sessions = False
    own_route = ""
    """What can be read of every server of this kind, and of no other."""

    def __init__(self, address: str) -> None:
        self.address = address
        # A connection for each request: a server may close an idle one just as it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        proxies = not is_loopback(httpx.URL(address).host)  # no proxy's loopback is this machine's
        self._http = httpx.AsyncClient(base_url=address, timeout=_TIMEOUT, limits=limits, trust_env=proxies)

    async def find_routes(self) -> None:
        """See that the server has the routes of its kind.

        Raises:
            WrongAdapterError: it has not.
            InstrumentError: it does not answer.
        """
        if self.own_route:
            try:
                await self._call("GET", self.own_route)
            except NoRouteError as error:
                raise self._wrong_adapter(f"GET {self.own_route}", error) from error

    def _wrong_adapter(self, asked: str, error: NoRouteError, others: Sequence[str] = ()) -> WrongAdapterError:
        """Say what the server lacks, and which kinds do without it; by default those without this kind's own route."""
        mine = next(name for name, kind in ADAPTERS.items() if kind is type(self))
        others = others or [name for name, kind in ADAPTERS.items() if kind.own_route != self.own_route]
        return WrongAdapterError(
            f"this server has no such route as {asked}, expected of a server of adapter {mine!r}; got {error}; if it "
            f"is of another kind, give adapter {' or '.join(others)}"
        )

    async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
        """Ask for `max_tokens` tokens, the likeliest ones, behind a prompt; with log-probabilities or without."""
        body = {
            "model": "any",
            "prompt": list(prompt),
            "max_tokens": max_tokens,
            "temperature": 0,
            **({"logprobs": _LOGPROBS} if logprobs else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._session_fields(session),
        }
        parts = _Parts(time.monotonic())
        async for event in self._stream("/v1/completions", body):
            _read_openai(parts, event)
        return parts.reply()

    async def sleep(self, session: str) -> None:
        """Say that the agent goes idle, if the server can be told."""

    async def wake(self, session: str) -> None:
        """Do what the server needs before the next turn."""

    async def close(self, session: str) -> None:
        """End a session."""

    async def record(self, session: str) -> SessionRecord | None:
        """Return what the server says about a session; None if it says nothing."""
        return None

    async def states(self) -> dict[str, str] | None:
        """Return the state of every open session; None if the server does not say."""
        return None

    async def aclose(self) -> None:
        """End the connections."""
        await self._http.aclose()

    def _session_fields(self, session: str) -> dict[str, Any]:
        return {}

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            async with self._http.stream("POST", path, json=body) as answer:
                if answer.status_code != 200:
                    told = (await answer.aread()).decode(errors="replace")[:500]
                    raise InstrumentError(f"{self.address}{path}: HTTP {answer.status_code}: {told}")
                async for line in answer.aiter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield self._event(path, line[6:])
        except httpx.HTTPError as error:
            raise InstrumentError(f"{self.address}{path}: {type(error).__name__}: {error}") from error

    def _event(self, path: str, data: str) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(data)
        if "error" in event:
            raise InstrumentError(f"{self.address}{path}: in the middle of an answer: {event['error']}")
        return event

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise InstrumentError(f"{self.address}{path}: {type(error).__name__}: {error}") from error
        if answer.status_code != 200:
            kind = NoRouteError if answer.status_code in _NO_ROUTE else InstrumentError
            raise kind(f"{self.address}{path}: HTTP {answer.status_code}: {answer.text[:500]}")
        return answer.json()


class IdleClient(AgentClient):
    """A server with sessions, which are never told to sleep: the server's own idle threshold must do."""

    has_sessions = True
    own_route = "/v1/sessions"

    def _session_fields(self, session: str) -> dict[str, Any]:
        return {"agent_hint": {"session_id": session}}

    async def close(self, session: str) -> None:
        await self._call("DELETE", f"/v1/sessions/{session}")

    async def record(self, session: str) -> SessionRecord | None:
        listed = (await self._call("GET", "/v1/sessions"))["sessions"]
        found = next((entry for entry in listed if entry["id"] == session), None)
        if found is None:
            return None
        return SessionRecord(
            state=found.get("state"),
            swaps=found.get("swaps"),
            restores=found.get("restores"),
            swapped_bytes=found.get("swapped_bytes"),
            restored_bytes=found.get("restored_bytes"),
            swap_s=found.get("swap_s"),
            restore_s=found.get("restore_s"),
            allocate_s=found.get("allocate_s"),
            digest_s=found.get("digest_s"),
            digest_out=found.get("digest_out"),
            digest_in=found.get("digest_in"),
        )

    async def states(self) -> dict[str, str] | None:
        return {entry["id"]: entry["state"] for entry in (await self._call("GET", "/v1/sessions"))["sessions"]}


class SignalClient(IdleClient):
    """A server that is told when an agent waits for something outside."""

    async def sleep(self, session: str) -> None:
        path = f"/v1/sessions/{session}/phase"
        try:
            await self._call("POST", path, {"phase": "IO_WAIT"})
        except NoRouteError as error:
            if await self.record(session) is None:
                raise  # it is the session that is not there
            raise self._wrong_adapter(f"POST {path}", error, ["idle"]) from error


class SlotClient(AgentClient):
    """llama-server, started with a folder for slots (--slot-save-path). Each session has a slot of its own."""

    has_sessions = True
    own_route = "/slots"

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self._slots: dict[str, int] = {}
        self._records: dict[str, SessionRecord] = {}

    async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
        body = {
            "prompt": list(prompt),
            "n_predict": max_tokens,
            "temperature": 0,
            "n_probs": _LOGPROBS if logprobs else 0,
            "cache_prompt": True,
            "id_slot": await self._slot(session),
            "return_tokens": True,
            "stream": True,
        }
        parts = _Parts(time.monotonic())
        async for event in self._stream("/completion", body):
            _read_llama(parts, event)
        return parts.reply()

    async def sleep(self, session: str) -> None:
        path, name = f"/slots/{await self._slot(session)}", f"{session}.bin"
        try:
            saved = await self._call("POST", f"{path}?action=save", {"filename": name})
        except NoRouteError as error:
            raise self._wrong_adapter(f"POST {path}?action=save", error) from error
        await self._call("POST", f"{path}?action=erase")
        before = self._records[session]
        self._records[session] = SessionRecord(
            swaps=(before.swaps or 0) + 1,
            restores=before.restores,
            swapped_bytes=(before.swapped_bytes or 0) + saved["n_written"],
            restored_bytes=before.restored_bytes,
            swap_s=saved["timings"]["save_ms"] / 1e3,
        )

    async def wake(self, session: str) -> None:
        path = f"/slots/{await self._slot(session)}?action=restore"
        restored = await self._call("POST", path, {"filename": f"{session}.bin"})
        before = self._records[session]
        self._records[session] = SessionRecord(
            swaps=before.swaps,
            restores=(before.restores or 0) + 1,
            swapped_bytes=before.swapped_bytes,
            restored_bytes=(before.restored_bytes or 0) + restored["n_read"],
            swap_s=before.swap_s,
            restore_s=restored["timings"]["restore_ms"] / 1e3,
        )

    async def close(self, session: str) -> None:
        slot = self._slots.pop(session, None)
        if slot is not None:
            await self._call("POST", f"/slots/{slot}?action=erase")

    async def record(self, session: str) -> SessionRecord | None:
        return self._records.get(session)

    async def _slot(self, session: str) -> int:
        if session not in self._slots:
            known = {int(slot["id"]) for slot in await self._call("GET", "/slots")}
            free = sorted(known - set(self._slots.values()))
            if not free:
                raise InstrumentError(
                    f"{self.address}: all {len(known)} slots are taken; start it with more (--parallel), or check "
                    "fewer agents"
                )
            self._slots[session] = free[0]
            self._records[session] = SessionRecord(swaps=0, restores=0)
        return self._slots[session]


ADAPTERS: dict[str, type[AgentClient]] = {
    "signal": SignalClient,
    "idle": IdleClient,
    "slot": SlotClient,
    "none": AgentClient,
}


def connect(adapter: str, address: str) -> AgentClient:
    """Return a client of a kind for a server at an address.

    Raises:
        ParamsError: there is no such kind.
    """
    if adapter not in ADAPTERS:
        raise ParamsError(f"adapter: expected one of {', '.join(ADAPTERS)}, got {adapter!r}")
    return ADAPTERS[adapter](address)


def _read_openai(parts: _Parts, event: dict[str, Any]) -> None:
    for choice in event.get("choices", []):
        found = choice.get("logprobs") or {}
        ids = choice.get("token_ids") or []
        if choice.get("text") or ids or found.get("token_logprobs"):
            parts.times.append(time.monotonic())
        parts.text += choice.get("text") or ""
        parts.ids += ids
        parts.logprobs += found.get("token_logprobs") or []
        parts.runners_up += [value for top in found.get("top_logprobs") or [] for value in top.values()]
    usage, timings = event.get("usage"), event.get("timings")
    if usage:
        details = usage.get("prompt_tokens_details") or {}
        parts.fields["prompt_tokens"] = usage.get("prompt_tokens")
        parts.fields["cached_tokens"] = details.get("cached_tokens")
    if timings:
        parts.fields["queue_s"] = timings.get("queue_s")
        parts.fields["restore_s"] = timings.get("restore_s")
        parts.fields["compute_s"] = timings.get("first_token_s")


def _read_llama(parts: _Parts, event: dict[str, Any]) -> None:
    if event.get("tokens"):
        parts.times.append(time.monotonic())
        parts.text += event.get("content", "")
        parts.ids += event["tokens"]
    for place in event.get("completion_probabilities") or []:
        parts.logprobs.append(place["logprob"])
        parts.runners_up += [token["logprob"] for token in place["top_logprobs"]]
    timings = event.get("timings")
    if timings:
        parts.fields["prompt_tokens"] = timings["cache_n"] + timings["prompt_n"]
        parts.fields["cached_tokens"] = timings["cache_n"]
        parts.fields["compute_s"] = timings["prompt_ms"] / 1e3
