"""Speaks with servers that keep all KV in one pool: what a turn cost is read of the server's own counters."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.pool.adapters import SGLANG, VLLM, PoolAdapter, Route
from djinn_checks.checks.agents.pool.counts import Counts, Series, parse_metrics, read_counts
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.errors import InstrumentError, NoRouteError

_SETTLE_S, _POLL_S = 3.0, 0.05
"""How long a server may take to count a turn that it has answered, and how often it is asked."""
_REST_S = 0.3
"""After which what was moved for a turn is counted as well; 0.3 s were enough for vLLM 0.26.0."""
_READ_S, _READ_PAUSE_S = 3.0, 0.3
"""For how long the metrics are asked for again if they are refused: who serves them may be busy."""
_RESET_TRIES, _RESET_PAUSE_S = 20, 0.25
"""A cache cannot be emptied while copies run: vLLM says so, and is asked again."""
_LONGEST_VERSION = 60
"""Characters; one of a commit has forty and some."""


class PoolClient(AgentClient):
    """A server with a pool. Every session has a salt that no other session of any run has."""

    is_pool = True
    has_sessions = True
    gives_counts: ClassVar[bool] = True
    adapter: ClassVar[PoolAdapter]

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._run = uuid.uuid4().hex
        self._salts: dict[str, str] = {}
        self.not_emptied = ""
        """What the server answered when it was last asked to empty a cache and did not."""

    async def find_routes(self) -> None:
        kind, asked = self.adapter, f"GET {self.adapter.metrics}"
        try:
            series = await self.series()
        except NoRouteError as error:
            raise self._wrong_adapter(asked, error) from error
        if not any(entry.name.startswith(kind.begins) for entry in series):
            others = sorted({entry.name.partition(":")[0] for entry in series if ":" in entry.name})
            came = f"metrics of {', '.join(others) or 'another kind'}"
            started = f"; {kind.name} counts if it is started with {kind.needs}" if kind.needs else ""
            raise self._wrong_adapter(f"{asked} with names that begin with {kind.begins!r}", f"{came}{started}")
        await super().find_routes()

    async def series(self) -> list[Series]:
        """Return all that the server counts and says of itself.

        Raises:
            InstrumentError: it was asked several times, and did not answer.
        """
        deadline = time.monotonic() + _READ_S
        while True:
            try:
                return parse_metrics((await self._request_once("GET", self.adapter.metrics, None)).text)
            except InstrumentError as error:
                if isinstance(error, NoRouteError) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_READ_PAUSE_S)

    async def counts(self) -> Counts | None:
        """Return what the server has counted so far; None if it cannot be read now."""
        try:
            return read_counts(self.adapter, await self.series())
        except InstrumentError:
            return None

    async def version(self) -> str | None:
        """Return the server's version; None if it does not say."""
        path, name = self.adapter.version
        try:
            said = (await self._call("GET", path)).get(name)
        except InstrumentError:
            return None
        return str(said)[:_LONGEST_VERSION] if said else None

    async def counted_turn(self, session: str, prompt: Sequence[int], max_tokens: int) -> tuple[Reply, Counts]:
        """Take a turn while nobody else does; return the answer with its tokens' sources, and all that was counted."""
        before = await self._settle()
        reply = await self.turn(session, prompt, max_tokens)
        wanted = reply.prompt_tokens or len(prompt)
        counts = await self._count(before, wanted) if before else Counts()
        return replace(reply, sources=counts.sources), counts

    async def empty_device(self) -> bool:
        """Empty the device's cache and leave the host's. Return whether the server could."""
        return await self._empty(self.adapter.empty_device)

    async def empty_all(self) -> bool:
        """Empty both caches. Return whether the server could."""
        return await self._empty(self.adapter.empty_all)

    async def close(self, session: str) -> None:
        """Forget the session's salt: whoever comes under its name is another one."""
        self._salts.pop(session, None)

    def share(self, session: str, group: str) -> None:
        """Have a session share its cached prefixes with others of a group."""
        self._salts[session] = f"{self._run}-group-{group}"

    def _session_fields(self, session: str) -> dict[str, Any]:
        salt = self._salts.setdefault(session, f"{self._run}-{session}-{uuid.uuid4().hex[:8]}")
        return {name: _fill(value, salt, session) for name, value in self.adapter.fields.items()}

    async def _settle(self) -> Counts | None:
        """Return what the server has counted when all sources of earlier prompts are counted as well."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            found = await self.counts()
            if found is None or (found.surplus or 0) >= 0 or time.monotonic() > deadline:
                return found
            await asyncio.sleep(_POLL_S)

    async def _count(self, before: Counts, wanted: int) -> Counts:
        """Return what was counted since, when twice the same is, and a prompt of so many tokens with its sources."""
        deadline = time.monotonic() + _SETTLE_S
        last: Counts | None = None
        while True:
            await asyncio.sleep(_POLL_S)
            now = await self.counts()
            found = now.since(before) if now else Counts()
            is_all = (found.prompt is None or found.prompt >= wanted) and found.adds_up
            is_all = is_all and (not found.host or found.load_bytes != 0)  # whose bytes may be counted later
            if (is_all and found == last) or now is None or time.monotonic() > deadline:
                break
            last = found
        await asyncio.sleep(_REST_S)
        now = await self.counts()
        return now.since(before) if now else Counts()

    async def _empty(self, route: Route | None) -> bool:
        if route is None:
            return False
        for _ in range(_RESET_TRIES):
            try:
                answer = await self._request(route.method, route.path)
            except NoRouteError:
                return False
            except InstrumentError as error:
                self.not_emptied = str(error)
                return False
            if not _says_no(answer.text):
                return True
            await asyncio.sleep(_RESET_PAUSE_S)
        return False


class VllmClient(PoolClient):
    """vLLM, and LMCache behind it."""

    adapter = VLLM


class SglangClient(PoolClient):
    """SGLang with its hierarchical cache."""

    adapter = SGLANG


def _fill(value: object, salt: str, session: str) -> object:
    if isinstance(value, str):
        return value.replace("{salt}", salt).replace("{session}", session)
    if isinstance(value, Mapping):
        return {name: _fill(inner, salt, session) for name, inner in value.items()}
    return value


def _says_no(text: str) -> bool:
    return '"success":false' in "".join(text.split())
