"""What the agents check writes of its run, and what is read of it.

Texts and counts are measurements. What the clock has to do with are timings: seconds from the sleeper's first
request, and in the crowd from its first arrival.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast


class Said(TypedDict):
    """An answer."""

    text: str
    pieces: list[str]
    """The text token by token; in one piece if the server gives no tokens."""


class TurnRow(TypedDict):
    """A turn of the sleeper, and the same turn of its twins."""

    prompt_tokens: int
    slept: Said
    hot: Said
    cold: Said | None
    """None for the first turn, before which nobody slept."""
    nll_slept: float
    """Mean negative log-likelihood of a token under the resident model, in nats."""
    nll_hot: float


class SleepRow(TypedDict):
    """What a sleep was about."""

    kv_bytes: int


class AgentsMeasurements(TypedDict, total=False):
    """All that is the same for the same params. An outcome that stopped early has none of it."""

    turns: list[TurnRow]
    sleeps: list[SleepRow]
    agents: int
    """In the crowd; 0 without one."""
    server_version: str | None
    """As a server with a pool says it; None if none is known. Older outcomes lack it."""


class PhaseRow(TypedDict):
    """A stretch of the sleeper's life."""

    phase: str
    """"computes", "sleeps" or "wakes"."""
    start_s: float
    end_s: float


class SessionFacts(TypedDict):
    """What a server says about a session; None where it does not say."""

    state: str | None
    swaps: int | None
    restores: int | None
    swapped_bytes: int | None
    restored_bytes: int | None
    swap_s: float | None
    restore_s: float | None
    allocate_s: float | None
    digest_s: float | None
    digest_out: str | None
    digest_in: str | None


class SleepTimes(TypedDict):
    """When a sleep began and ended, and what the server says of it."""

    told_s: float
    woken_s: float
    first_token_s: float
    swap: SessionFacts | None
    """At the end of the sleep."""
    restore: SessionFacts | None
    """After the turn that followed."""
    wake_s: float


class PaceFacts(TypedDict):
    """Seconds per token after the first, the mean of each round."""

    server_s: list[float]
    generate_s: list[float]
    reason: str
    """Why there are no rounds."""


class WakeRow(TypedDict):
    """A turn of the crowd that followed a pause; its parts are None if the server does not say.

    It begins with the first request: what a server that puts it off has an agent wait for is part of the queue.
    """

    sent_s: float
    wake_s: float
    queue_s: float | None
    restore_s: float | None
    compute_s: float | None


class PressureFacts(TypedDict):
    """How full the device was while the crowd was there, and who sent sessions out, as seen from outside."""

    looks: int
    near_budget: float
    """Share of the looks at which the sessions on the device had 0.9 of the budget and more."""
    median_of_budget: float
    left_for_room: int
    """Before the timer, and without a word: another needed the place."""
    left_by_timer: int
    left_when_told: int


class CrowdTimes(TypedDict):
    """Many agents at once."""

    offered_load: float | None
    duration_s: float
    swaps: int | None
    restores: int | None
    wakes: list[WakeRow]
    wake_p50_s: float | None
    wake_p99_s: float | None
    restore_p50_s: float | None
    restore_p99_s: float | None
    unloaded_restore_s: float | None
    turns: list[tuple[int, float, float, float]]
    """Agent, and when a turn was asked for, had its first token and ended."""
    apart_nats: NotRequired[list[float | None]]
    """How far each turn's answer is from its twin's, in the order of `turns`; None where that is no number. Older
    outcomes lack it."""
    host_tokens: NotRequired[int | None]
    """Prompt tokens that came from outside the device, by the account of a server with a pool."""
    states: list[tuple[float, dict[str, int]]]
    """When, and how many sessions were in each state."""
    memory: list[list[float]]
    """[seconds, bytes] of the device; empty if it could not be read."""
    pressure: NotRequired[PressureFacts | None]
    """None if the server does not list its sessions. Older outcomes lack it."""


class FirstWrong(TypedDict):
    """How many turns had been answered when the first one was whose log-probabilities are not the twin's."""

    sleeper: int | None
    """None if none was, or the server gives no log-probabilities; the same of the crowd."""
    crowd: int | None
    crowd_turns: int
    """Of the crowd in all."""


class AgentsTimings(TypedDict):
    """All that differs from run to run. Outcomes of earlier versions lack some of it."""

    phases: list[PhaseRow]
    memory: list[list[float]]
    """[seconds, bytes] of the server's process; empty if it could not be read."""
    memory_source: str | None
    sleeps: list[SleepTimes]
    wake_hot_s: list[float]
    wake_cold_s: list[float]
    pace: PaceFacts | None
    ceilings_bytes_per_s: dict[str, float]
    """By direction, "out" and "in"."""
    memory_changes: list[list[int]] | None
    """[bytes gone, bytes back] of each sleep."""
    counted_bytes: dict[str, list[float] | None] | None
    """By direction, of each sleep."""
    swap_bytes_per_s: dict[str, list[float] | None]
    moves_on_link_s: dict[str, list[list[float]] | None]
    """By direction, [least, greatest] of each sleep."""
    crowd: CrowdTimes | None
    first_wrong: NotRequired[FirstWrong]
    server_start_s: NotRequired[float]
    server_s: NotRequired[float]
    reference_s: NotRequired[float]


def read(measurements: Mapping[str, Any]) -> AgentsMeasurements:
    """Return the measurements of an agents outcome under their names."""
    return cast(AgentsMeasurements, measurements)


def read_timings(timings: Mapping[str, Any]) -> AgentsTimings:
    """Return the timings of an agents outcome under their names."""
    return cast(AgentsTimings, timings)
