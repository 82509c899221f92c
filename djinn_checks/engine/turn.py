"""One turn of a session: what was asked, the tokens it came to, and where the time went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """What a turn is asked to do."""

    prompt: tuple[int, ...]
    """All token ids so far, those of earlier turns included. What the session's KV already holds is not computed."""
    max_tokens: int
    temperature: float = 0.0
    """0: the most likely token, always."""
    top_p: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    """How many of the most likely tokens to report with each token; None: no log-probabilities at all."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """One generated token."""

    id: int
    logprob: float | None = None
    """Natural logarithm of its probability, from float32 logits, before temperature and top_p."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens with theirs, the most likely first."""


@dataclass(frozen=True, kw_only=True)
class TurnEnd:
    """How a turn ended, and where its time went until the first token: queue, restore, first token."""

    reason: str
    """"stop" (an end-of-sequence token), "length" or "cancelled"."""
    queue_s: float
    """Seconds from the request to the start of its computation, the restore excepted."""
    restore_s: float
    """Seconds in which the session's KV came back to the device; 0.0 if it was there."""
    first_token_s: float
    """Seconds from the start of the computation to the first token."""
    decode_s: float
    """Seconds from the first token to the last."""
    prefilled_tokens: int
    """Prompt tokens that were computed."""
    reused_tokens: int
    """Prompt tokens whose KV the session still had."""


Listener = Callable[[Token | TurnEnd | Exception], None]
"""Called in the engine's thread for each token, and a last time with the end or with what went wrong."""


@dataclass(kw_only=True)
class Turn:
    """A turn on its way. Belongs to the engine's thread."""

    request: TurnRequest
    listener: Listener
    arrived_s: float
    began_s: float = 0.0
    first_token_at_s: float = 0.0
    restore_s: float = 0.0
    reused_tokens: int = 0
    produced: int = 0
    cancelled: bool = False
    next_ids: list[int] = field(default_factory=list)
    """Token ids to feed in the next forward."""
    random: torch.Generator = field(default_factory=torch.Generator)

    @property
    def capacity(self) -> int:
        """Tokens that the session may hold at the turn's end."""
        return len(self.request.prompt) + self.request.max_tokens

    def end(self, reason: str, now_s: float) -> TurnEnd:
        """Return the account of the turn."""
        began = self.began_s or now_s
        first = self.first_token_at_s or now_s
        return TurnEnd(
            reason=reason,
            queue_s=max(0.0, began - self.arrived_s - self.restore_s),
            restore_s=self.restore_s,
            first_token_s=first - began,
            decode_s=now_s - first,
            prefilled_tokens=len(self.request.prompt) - self.reused_tokens if self.produced else 0,
            reused_tokens=self.reused_tokens,
        )
