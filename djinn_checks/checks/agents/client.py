"""Speaks with agent servers over HTTP: what all kinds share, and the kinds that have sessions.

Times are this side's own. Servers that keep all KV in one pool have a client of their own, in `pool/client.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import httpx

from djinn_checks.checks.agents.patience import OTHER_TRIES, TURN_TRIES, LaterError, Patience, is_later, read_pause_s
from djinn_checks.checks.agents.refusal import (
    RefusedError,
    key_header,
    say_error,
    tell_models,
    tell_remedy,
    without_key,
)
from djinn_checks.checks.agents.reply import Reply, SessionRecord
from djinn_checks.checks.agents.session_list import UNSAID, read_list, read_record
from djinn_checks.checks.agents.streams import Parts, Read, parse_event, read_events, read_openai
from djinn_checks.errors import InstrumentError, NoRouteError, WrongAdapterError
from djinn_checks.server.listening import is_loopback

_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
LOGPROBS = 2
"""How many of the likeliest tokens a server is asked for at each place."""
_NO_ROUTE = (404, 405, 501)
"""How servers answer where they have no such route: llama-server with 501 if it was started without slots."""
_REFUSED = (400, 422, 500, 501)
"""How servers answer to a body that they do not take; llama-cpp-python with 500 to log-probabilities or token ids."""
_CRASHED = 500
"""Which may also be an accident: a request is sent once more before another form of it is tried."""
_IDS, _TEXT, _PLAIN = range(3)
"""Forms of a request, tried in this order: token ids; a text in their place, for a server that takes none; a text with
OpenAI's fields and no others, for one that refuses what it does not know. A field that a refusal names is left out
first."""
_OF_OPENAI = ("model", "prompt", "max_tokens", "temperature", "stream")


class AgentClient:
    """A server of kind `none`, and what all kinds share. Every method may raise `InstrumentError`."""

    has_sessions: ClassVar[bool] = False
    is_pool: ClassVar[bool] = False
    """Whether the server keeps all KV in one pool that it takes when it starts."""
    own_route: ClassVar[str] = ""
    """What can be read of every server of this kind, and of no other."""
    needed: ClassVar[tuple[str, ...]] = _OF_OPENAI
    """Fields of a request that are never left out."""

    def __init__(
        self,
        address: str,
        *,
        kind: str = "none",
        kinds: Mapping[str, str] | None = None,
        model: str = "",
        decode: Callable[[Sequence[int]], str | None] | None = None,
    ) -> None:
        """Speak with the server at an address.

        Args:
            kind: the adapter's name.
            kinds: the own routes of all adapters, by name.
            model: the name that the server knows its model by; empty: the first that it lists.
            decode: token ids to text, for a server that takes no ids.
        """
        self.address = address
        self._kind, self._kinds, self._model, self._decode = kind, kinds or {}, model, decode
        self._form, self._left_out, self._is_settled = _IDS, frozenset[str](), False
        self._has_crashed = False
        self._listed: list[Any] = []
        self.put_off_s = 0.0
        """Seconds for which the server put off requests that were no turns."""
        # A connection for each request: a server may close an idle one just as it is used again.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        proxies = not is_loopback(httpx.URL(address).host)  # no proxy's loopback is this machine's
        self._http = httpx.AsyncClient(
            base_url=address, timeout=_TIMEOUT, limits=limits, trust_env=proxies, headers=key_header()
        )

    async def find_routes(self) -> None:
        """See that the server has the routes of its kind.

        Raises:
            WrongAdapterError: it has not.
            InstrumentError: it does not answer.
        """
        if self.own_route:
            try:
                await self._read_own_route()
            except NoRouteError as error:
                raise self._wrong_adapter(f"GET {self.own_route}", error) from error

    async def _read_own_route(self) -> Any:
        return await self._call("GET", self.own_route)

    def _wrong_adapter(self, asked: str, came: object, others: Sequence[str] = ()) -> WrongAdapterError:
        """Say what the server lacks, and which kinds do without it; by default those without this kind's own route."""
        mine = self._kinds.get(self._kind, self.own_route)
        rest = [name for name, route in self._kinds.items() if name != self._kind and (route != mine or self.is_pool)]
        return WrongAdapterError(
            f"this server has no such route as {asked}, expected of a server of adapter {self._kind!r}; got {came}; if "
            f"it is of another kind, give adapter {' or '.join(others or rest)}"
        )

    async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
        """Ask for `max_tokens` tokens, the likeliest ones, behind a prompt; with log-probabilities or without."""
        refused: RefusedError | None = None
        while True:
            body = await self._body(session, prompt, max_tokens, logprobs)
            try:
                reply = await self._reply("/v1/completions", body, read_openai)
            except RefusedError as error:
                if self._is_settled:
                    raise
                if error.status == _CRASHED and not self._has_crashed:
                    self._has_crashed = True
                    continue
                if self._leave_out(body, error):
                    continue
                refused = refused or error
                self._take_next_form(prompt, refused, error)
                continue
            self._is_settled = True
            return reply

    def _leave_out(self, body: Mapping[str, Any], error: RefusedError) -> bool:
        """Leave out the fields that a refusal names; return whether there are any."""
        named = [name for name in body if name not in self.needed and re.search(rf"\b{name}\b", str(error))]
        self._left_out |= frozenset(named)
        return bool(named)

    def _take_next_form(self, prompt: Sequence[int], first: RefusedError, last: RefusedError) -> None:
        """Ask in the next form, after the first refusal and the last.

        Raises:
            InstrumentError: there is none, and the request was refused.
        """
        if self._form == _PLAIN or self._decode is None:
            told = "" if str(last) == str(first) else f"; asked with a text in place of token ids: {last}"
            raise InstrumentError(f"{first}{told}{tell_models(self._model, self._listed)}") from first
        if self._decode(prompt) is None:
            raise InstrumentError(
                f"{first}; if it takes no token ids: the model has no tokenizer to make a text of them; check a model "
                f"with one{tell_models(self._model, self._listed)}"
            ) from first
        self._form, self._left_out = self._form + 1, frozenset()

    async def _body(self, session: str, prompt: Sequence[int], max_tokens: int, logprobs: bool) -> dict[str, Any]:
        told = self._decode(prompt) if self._decode and self._form != _IDS else list(prompt)
        body = {
            "model": await self._name_model(),
            "prompt": told,
            "max_tokens": max_tokens,
            "temperature": 0,
            **({"logprobs": LOGPROBS} if logprobs else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._session_fields(session),
        }
        if self._form == _PLAIN:
            return {name: body[name] for name in self.needed}
        return {name: value for name, value in body.items() if name not in self._left_out}

    async def _name_model(self) -> str:
        if not self._model:
            try:
                listed = (await self._call("GET", "/v1/models")).get("data") or []
                self._listed = [entry for entry in listed if isinstance(entry, dict) and entry.get("id")]
            except (InstrumentError, ValueError, AttributeError, TypeError):
                self._listed = []
            self._model = str(self._listed[0]["id"]) if self._listed else "any"
        return self._model

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

    async def _reply(self, path: str, body: dict[str, Any], read: Read) -> Reply:
        """Return the answer to a request, which is sent again if the server says that it answers later."""
        patience = Patience(tries=TURN_TRIES)
        while True:
            parts = Parts(time.monotonic())
            try:
                async for event in self._stream(path, body):
                    self._take(path, read, parts, event)
            except LaterError as error:
                await patience.wait(error)
                continue
            refused_s = parts.sent_s - patience.first_s if patience.refusals else 0.0
            return replace(parts.reply(), refusals=patience.refusals, refused_s=refused_s)

    def _take(self, path: str, read: Read, parts: Parts, event: Mapping[str, Any]) -> None:
        try:
            read(parts, event)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InstrumentError(
                self._say(path, f"expected an event as in OpenAI's completions, got {str(event)[:200]} ({error})")
            ) from error

    async def _stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            async with self._http.stream("POST", path, json=body) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise self._refusal(path, answer, RefusedError if answer.status_code in _REFUSED else None)
                kind, is_told = answer.headers.get("Content-Type", "no type"), False
                if "json" in kind and (told := say_error(await answer.aread())):
                    raise RefusedError(self._say(path, f"HTTP 200, and in it: {told}"))
                async for data in read_events(answer.aiter_bytes()):
                    is_told = True
                    try:
                        yield parse_event(data)
                    except InstrumentError as error:
                        raise InstrumentError(self._say(path, str(error))) from error
                if not is_told and "event-stream" not in kind:
                    raise InstrumentError(
                        f"{self.address}{path}: expected an event stream, got {kind}; the time to the first token "
                        "cannot be measured from it: have it stream"
                    )
        except httpx.HTTPError as error:
            raise InstrumentError(self._say(path, f"{type(error).__name__}: {error}")) from error

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = await self._request(method, path, body)
        try:
            return answer.json()
        except ValueError as error:
            raise InstrumentError(self._say(path, f"expected JSON, got {answer.text[:200]!r}")) from error

    async def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Return the answer to a request that is no turn, whichever 2xx it is; it may be empty."""
        patience = Patience(tries=OTHER_TRIES)
        while True:
            try:
                return await self._request_once(method, path, body)
            except LaterError as error:
                self.put_off_s += await patience.wait(error)

    async def _request_once(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, json=body, follow_redirects=method == "GET")
        except httpx.ConnectError as error:
            raise InstrumentError(
                f"{self.address}: no server answers there ({error}); start it, or see in its log why it ended, and "
                "give its address as server_address"
            ) from error
        except httpx.HTTPError as error:
            raise InstrumentError(self._say(path, f"{type(error).__name__}: {error}")) from error
        if not answer.is_success:
            raise self._refusal(path, answer, NoRouteError if answer.status_code in _NO_ROUTE else None)
        return answer

    def _say(self, path: str, told: str) -> str:
        return without_key(f"{self.address}{path}: {told}")

    def _refusal(self, path: str, answer: httpx.Response, kind: type[InstrumentError] | None) -> InstrumentError:
        """Return what a server said in place of an answer, as an error of a kind; None: there is no such kind."""
        remedy = tell_remedy(path, answer.status_code, answer.headers, answer.text)
        told = self._say(path, f"HTTP {answer.status_code}: {answer.text[:500]}{remedy}")
        if is_later(answer.status_code, answer.text):
            return LaterError(told, read_pause_s(answer.headers.get("Retry-After")))
        error = (kind or InstrumentError)(told)
        if isinstance(error, RefusedError):
            error.status = answer.status_code
        return error


class IdleClient(AgentClient):
    """A server with sessions, which are never told to sleep: the server's own idle threshold must do."""

    has_sessions = True
    own_route = "/v1/sessions"
    needed = (*_OF_OPENAI, "agent_hint")

    def _session_fields(self, session: str) -> dict[str, Any]:
        return {"agent_hint": {"session_id": session}}

    async def close(self, session: str) -> None:
        await self._request("DELETE", f"/v1/sessions/{session}")

    async def record(self, session: str) -> SessionRecord | None:
        found = (await self._read_own_route()).get(session)
        return None if found is None else read_record(found)

    async def states(self) -> dict[str, str] | None:
        return {name: entry.get("state") or UNSAID for name, entry in (await self._read_own_route()).items()}

    async def _read_own_route(self) -> dict[str, Mapping[str, Any]]:
        said = await super()._read_own_route()
        try:
            return read_list(said)
        except InstrumentError as error:
            raise InstrumentError(f"{self.address}{self.own_route}: {error}") from error


class SignalClient(IdleClient):
    """A server that is told when an agent waits for something outside."""

    async def sleep(self, session: str) -> None:
        path = f"/v1/sessions/{session}/phase"
        try:
            await self._request("POST", path, {"phase": "IO_WAIT"})
        except NoRouteError as error:
            if await self.record(session) is None:
                raise  # it is the session that is not there
            raise self._wrong_adapter(f"POST {path}", error, ["idle"]) from error
