"""The events of a streamed answer, read as servers really write them.

a line ends with a line feed and nothing else: a JSON string may hold U+2028 or U+0085 as they are
"data:" may have a space behind it or none
an event may have its data on several lines, up to a blank one, and some servers leave the blank one out
log-probabilities come in the form of completions (lists side by side) or of chats (a list of places)
one may be null, or -Infinity
a character outside the basic plane may come in two halves, in two events
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from djinn_checks.checks.agents.reply import Reply, Sources
from djinn_checks.errors import InstrumentError

_DONE = "[DONE]"
_BROKEN_OFF = ("abort", "error", "cancelled")
"""What servers give as the reason why an answer ended, when it did not come to its end."""


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[str]:
    """Yield the data of each server-sent event, in order, up to the mark of the end, which is none.

    Args:
        chunks: a body's bytes, cut anywhere.
    """
    rest, taken = b"", list[str]()
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            data = _take(taken, line)
            if data == _DONE:  # some servers hold the connection, and some break it off
                return
            if data is not None:
                yield data
    for line in (rest, b""):
        if (data := _take(taken, line)) not in (None, _DONE):
            yield str(data)


def _take(taken: list[str], line: bytes) -> str | None:
    """Take in a line of an event; return the event's data, if that is whole, and forget it.

    It is at a blank line, or as soon as it is JSON: who leaves the blank line out is not waited for.
    """
    line = line.rstrip(b"\r")
    if line.startswith(b"error:"):  # llama-server's, before it was an event's data
        taken[:] = [json.dumps({"error": line[6:].strip().decode(errors="replace")})]
    if line.startswith(b"data:"):
        taken.append(line[5:].strip(b" \r").decode(errors="replace"))
    data = "\n".join(taken)
    if line and data != _DONE and not _is_json(data):
        return None
    taken.clear()
    return data or None


def _is_json(data: str) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


@dataclass
class Parts:
    """A reply that is still coming."""

    sent_s: float
    fields: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[float | None] = field(default_factory=list)
    runners_up: list[float | None] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def reply(self) -> Reply:
        """Return it whole.

        Raises:
            InstrumentError: no token has come.
        """
        if not self.times:
            raise InstrumentError(
                "the server ended its answer without a token: expected as many as were asked for (max_tokens); if the "
                "model says here that it has ended, have the server go on (ignore_eos), or change seed for other words"
            )
        return Reply(
            ids=tuple(self.ids),
            text=join_halves(self.text),
            logprobs=tuple(self.logprobs),
            runners_up=tuple(self.runners_up),
            tokens=tuple(self.tokens),
            sent_s=self.sent_s,
            token_at_s=tuple(self.times),
            **self.fields,
        )


Read = Callable[[Parts, Mapping[str, Any]], None]
"""Takes in an event of an answer."""


def join_halves(text: str) -> str:
    """Return a text whose halves of characters are joined, and those that stand alone replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_event(data: str) -> dict[str, Any]:
    """Return an event's object.

    Raises:
        InstrumentError: it is none, or it says that an answer broke off.
    """
    try:
        event: Any = json.loads(data)
    except ValueError as error:
        raise InstrumentError(f"in the middle of an answer: expected JSON, got {data[:200]!r}") from error
    if not isinstance(event, dict):
        raise InstrumentError(f"in the middle of an answer: expected an object, got {data[:200]!r}")
    if event.get("error") or event.get("object") == "error":
        raise InstrumentError(f"in the middle of an answer: {event.get('error') or event.get('message') or event}")
    return event


def read_openai(parts: Parts, event: Mapping[str, Any]) -> None:
    """Take in an event of a completion."""
    for choice in event.get("choices") or []:
        if choice.get("finish_reason") in _BROKEN_OFF:
            raise InstrumentError(f"in the middle of an answer: it broke off ({choice['finish_reason']})")
        logprobs, runners_up = _logprobs(choice.get("logprobs") or {})
        ids = choice.get("token_ids") or _named_ids(choice.get("logprobs") or {})
        if choice.get("text") or ids or logprobs:
            parts.times.append(time.monotonic())
        parts.text += choice.get("text") or ""
        parts.ids += ids
        parts.logprobs += logprobs
        parts.runners_up += runners_up
        parts.tokens += _written_tokens(choice.get("logprobs") or {})
    usage, timings = event.get("usage"), event.get("timings")
    if usage:
        details = usage.get("prompt_tokens_details") or {}
        parts.fields["prompt_tokens"] = usage.get("prompt_tokens")
        parts.fields["cached_tokens"] = details.get("cached_tokens")
    if timings:
        parts.fields["queue_s"] = timings.get("queue_s")
        parts.fields["restore_s"] = timings.get("restore_s")
        parts.fields["compute_s"] = timings.get("first_token_s")
    details = (event.get("sglext") or {}).get("cached_tokens_details")
    if details:
        parts.fields["sources"] = Sources(device=details.get("device"), host=details.get("host"))


def _named_ids(found: Mapping[str, Any]) -> list[int]:
    """Return the ids that llama-server names beside its log-probabilities; nothing unless each place has one."""
    ids = [place.get("id") for place in found.get("content") or []]
    return [int(token) for token in ids] if all(isinstance(token, int) for token in ids) else []


def _written_tokens(found: Mapping[str, Any]) -> list[str]:
    """Return the tokens as they are written beside their log-probabilities, of either form."""
    places = [place.get("token") for place in found.get("content") or []] or found.get("tokens") or []
    return [token for token in places if isinstance(token, str)]


def _logprobs(found: Mapping[str, Any]) -> tuple[list[float | None], list[float | None]]:
    """Return the log-probabilities of the tokens, and of the likeliest at each place, of either form."""
    if "content" in found:
        places = found["content"] or []
        tops = [top for place in places for top in place.get("top_logprobs") or []]
        return _numbers(place.get("logprob") for place in places), _numbers(top.get("logprob") for top in tops)
    tops = [top for top in found.get("top_logprobs") or [] if isinstance(top, dict)]  # mlx-lm has pairs in their place
    return _numbers(found.get("token_logprobs") or []), _numbers(value for top in tops for value in top.values())


def _numbers(values: Iterable[Any]) -> list[float | None]:
    return [None if value is None else float(value) for value in values]


def read_llama(parts: Parts, event: Mapping[str, Any]) -> None:
    """Take in an event of llama-server's own completion."""
    if event.get("tokens") or event.get("content"):
        parts.times.append(time.monotonic())
        parts.text += event.get("content") or ""
        parts.ids += event.get("tokens") or []
    for place in event.get("completion_probabilities") or []:
        parts.logprobs.append(place.get("logprob"))
        parts.runners_up += [token.get("logprob") for token in place.get("top_logprobs") or []]
    timings = event.get("timings")
    if timings:
        cached, computed, ms = (timings.get(name) for name in ("cache_n", "prompt_n", "prompt_ms"))
        whole = event.get("tokens_evaluated") if cached is None or computed is None else cached + computed
        parts.fields["prompt_tokens"], parts.fields["cached_tokens"] = whole, cached
        parts.fields["compute_s"] = None if ms is None else ms / 1e3
