"""What a client sees of a server: the answer of a turn, and what the server says of its sessions and of its tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a turn's prompt tokens came from, by the server's own account; None where it does not say."""

    device: int | None = None
    """Whose KV was still on the device."""
    host: int | None = None
    """Whose KV came from outside the device: host memory, a disk, another machine."""
    computed: int | None = None

    @property
    def total(self) -> int | None:
        """All of them; None if a part is not known."""
        parts = (self.device, self.host, self.computed)
        return None if None in parts else sum(part or 0 for part in parts)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One turn as the client saw it."""

    ids: tuple[int, ...] = ()
    """Token ids; empty if the server gives none."""
    text: str = ""
    logprobs: tuple[float | None, ...] = ()
    """Of the tokens, as the server gave them; empty if it gives none, None where it gave null."""
    runners_up: tuple[float | None, ...] = ()
    """The log-probabilities of the likeliest tokens at each place, one after the other."""
    tokens: tuple[str, ...] = ()
    """The tokens as they are written beside their log-probabilities; empty if they are not."""
    sent_s: float = 0.0
    """CLOCK_MONOTONIC when the request was sent that was answered."""
    refusals: int = 0
    """How often the server had said before that it answers later."""
    refused_s: float = 0.0
    """For how long it had, from the first request until the one that was answered."""
    token_at_s: tuple[float, ...] = ()
    """When each part of the answer came."""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the server says it did not compute."""
    sources: Sources | None = None
    """Where they came from; None if the server does not say."""
    queue_s: float | None = None
    """Of the server's own account of the time to the first token; None if it gives none."""
    restore_s: float | None = None
    compute_s: float | None = None

    @property
    def wake_s(self) -> float:
        """Seconds from the request to its first token."""
        return self.token_at_s[0] - self.sent_s

    @property
    def asked_s(self) -> float:
        """When the request was sent for the first time."""
        return self.sent_s - self.refused_s

    @property
    def felt_wake_s(self) -> float:
        """Seconds from the first request to the first token: who is told to come later waits no less."""
        return self.token_at_s[0] - self.asked_s

    @property
    def end_s(self) -> float:
        """When the last part came."""
        return self.token_at_s[-1]

    @property
    def fingerprint(self) -> tuple[float | None, ...]:
        """Every number that the server gave about its arithmetic."""
        return self.logprobs + self.runners_up

    @property
    def mean_logprob(self) -> float | None:
        """The mean of the tokens' log-probabilities, those left out that the server gave as null; None of nothing."""
        known = [value for value in self.logprobs if value is not None]
        return sum(known) / len(known) if known else None


def tell_refusals(replies: Iterable[Reply]) -> str:
    """Return in a clause how often a server put off what it answered in the end; empty if it never did."""
    count = sum(reply.refusals for reply in replies)
    return f"; HTTP 429 or 503 {count} times, asked again and answered" if count else ""


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
    kept_bytes: int | None = None
    """The size of what was kept in the last sleep, where a server keeps it in a form of its own choice."""
