"""A token's time through the server, and by transformers' `generate()` in this process, measured in turns.

At batch 1 both wait for the processor that launches the kernels. In a virtual machine that is half of a core, and
while a neighbour works on the other half it is slower by half or more: the same decode takes 24, 33 or 42 ms per token,
in step with an empty loop beside it, and changes from one to the other within a second, on either side. No median
of such times says anything about the code. But nothing makes a decode faster than it is: of many short rounds, the
fastest of each side are the ones that nobody disturbed, and those are compared (as Python's `timeit` does it, and for
its reason). The rounds are taken in turns, so that what lasts longer hits both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.reference import generate
from djinn_checks.checks.run import release_memory
from djinn_checks.errors import InstrumentError
from djinn_checks.models.open import Model
from djinn_checks.units import format_bytes

_ROUNDS, _TOKENS = 30, 16
"""Each side of a round takes about half a second: short enough that some of them are undisturbed."""
_ROOM = 1.2
"""Times the model's bytes that the device must have free: its weights, one session's KV and a step's buffers."""


@dataclass(frozen=True, kw_only=True)
class TokenPace:
    """Seconds per token after the first: the mean of each round."""

    server_s: tuple[float, ...] = ()
    generate_s: tuple[float, ...] = ()
    reason: str = ""
    """Why there are no rounds."""

    @property
    def ratio(self) -> float | None:
        """The server's fastest round over that of `generate()`; None without rounds."""
        return min(self.server_s) / min(self.generate_s) if self.server_s else None


async def measure_token_pace(
    client: AgentClient, model: Model, device: torch.device, prompt: Sequence[int], new_tokens: int
) -> TokenPace:
    """Load the model beside the server's, let both speak in turns, and let go of it.

    A round before the others is not counted: each side sets things up in it. What goes wrong is its reason.

    Args:
        device: where the model is loaded; the server's own, or the comparison means nothing.
        prompt: token ids of every turn, each in a session of its own.
        new_tokens: most tokens of an answer; fewer are asked for if fewer are enough.
    """
    if device.type == "cuda" and (short := _lacking_room(model, device)):
        return TokenPace(reason=short)
    module = model.resident(device)
    speak = _Speakers(client, module, device, prompt, min(new_tokens, _TOKENS))
    try:
        rounds = [await speak.round(number) for number in range(_ROUNDS + 1)]
    except InstrumentError as error:
        return TokenPace(reason=str(error))
    finally:
        del module, speak
        release_memory(device)
    counted = [(server, alone) for server, alone in rounds[1:] if server and alone]
    if len(counted) < _ROUNDS:
        return TokenPace(reason="an answer had one token, or came in one piece")
    return TokenPace(
        server_s=tuple(fmean(server) for server, _ in counted),
        generate_s=tuple(fmean(alone) for _, alone in counted),
    )


@dataclass(frozen=True)
class _Speakers:
    client: AgentClient
    module: Any
    device: torch.device
    prompt: Sequence[int]
    new_tokens: int

    async def round(self, number: int) -> tuple[list[float], list[float]]:
        """Have both answer, and return the seconds between one's and the other's tokens.

        Neither computes log-probabilities: `generate()` has none unless it is asked for them.
        """
        session, watch = f"pace-{number}", _Stopwatch()
        reply = await self.client.turn(session, self.prompt, self.new_tokens, logprobs=False)
        await self.client.close(session)
        with torch.no_grad(), reproducible_attention():
            generate(self.module, self.device, self.prompt, self.new_tokens, streamer=watch)
        return _gaps(reply.token_at_s), _gaps(watch.heard_s[1:])  # what is heard first is the prompt


def _gaps(times_s: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(times_s)]


def _lacking_room(model: Model, device: torch.device) -> str:
    free, needed = torch.cuda.mem_get_info(device)[0], int(model.weight_bytes * _ROOM)
    if free >= needed:
        return ""
    return f"no room for the model beside the server's: {format_bytes(needed)} wanted, {format_bytes(free)} free"


class _Stopwatch:
    """A streamer for `generate()`, which calls it with the prompt, then with each token as it is chosen."""

    def __init__(self) -> None:
        self.heard_s: list[float] = []

    def put(self, value: Any) -> None:
        self.heard_s.append(time.monotonic())

    def end(self) -> None:
        """Nothing is held back."""
