"""The rows about many agents at once, on a device that cannot hold them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from djinn_checks.checks.agents.canary_criteria import judge_code_words
from djinn_checks.checks.agents.crowd import CrowdRun, percentile
from djinn_checks.checks.agents.crowd_distance import distances
from djinn_checks.checks.agents.crowd_tried import tell_tried
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.power import rate_excluded, restores_for
from djinn_checks.checks.agents.reply import tell_refusals
from djinn_checks.checks.agents.sameness_criteria import judge_said
from djinn_checks.checks.agents.scripts import SESSION_PREFIX, session_of
from djinn_checks.checks.agents.session_list import why_unknown
from djinn_checks.checks.agents.sleeper import SETTLE_S
from djinn_checks.outcome import Criterion, Row, Status
from djinn_checks.units import GB, MB, format_bytes, format_seconds

_RESIDENT = ("IDLE", "ACTIVE", "SWAPPING_OUT", "SWAPPING_IN")
_ON_DEVICE = ("ACTIVE", "SWAPPING_OUT", "SWAPPING_IN")
"""States in which a session's KV has its place on the device; one that is IDLE may be new, and have none yet."""
_OFF_DEVICE = ("SWAPPING_OUT", "SWAPPED", "SWAPPING_IN")
_OVERSHOOT = 1.1
"""Blocks are larger than the KV in them, and an allocator keeps some of what a forward has used."""
_OWN_ACCORD_BYTES = {"cpu": 8 * MB, "cuda": 32 * MB}
"""What memory may move by besides. A process's, which on a CPU stands in for the device's, stayed within 1.7 MB in six
runs of `params/smoke`; PyTorch takes a GPU's in segments of 20 MB."""
_RARE = 1e-4
"""Of restores: as rare as users have met wrong ones."""
_LONGEST_GAP_S = 2.0
"""Without a reading: a session that waits for its next turn is there for longer."""


def judge_crowd(evidence: AgentsEvidence) -> list[Criterion]:
    """Return the rows about the crowd; a crowd that was not asked for has none."""
    crowd = evidence.crowd
    if crowd is None:
        return []
    return [
        _overcommitted(evidence, crowd),
        _held(evidence, crowd),
        _swapped(evidence, crowd),
        _resident(evidence, crowd),
        *judge_everyone(evidence, crowd),
        _never_while_decoding(evidence, crowd),
        _within_budget(evidence, crowd),
        _restore(evidence, crowd),
    ]


def judge_everyone(evidence: AgentsEvidence, crowd: CrowdRun) -> list[Criterion]:
    """Return the rows that any server's crowd is judged by."""
    found = distances(crowd, is_pool=evidence.pool is not None)
    said = [*judge_said(evidence, crowd, found), *judge_code_words(crowd, found)]
    return [
        _answered(evidence, crowd),
        *said,
        _power(evidence, crowd, wrong=any(row.required and row.status is Status.FAIL for row in said)),
        _load(evidence, crowd),
        _wake(evidence, crowd),
    ]


def _answered(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    wanted = evidence.params.agents * evidence.params.turns * crowd.rounds
    answered = [*chain(*crowd.replies), *chain(*crowd.twins)]
    row = Row("crowd_answered", "Every agent's every turn was answered; nobody ran out of memory", unit="turns")
    return row.judge(
        sum(map(len, crowd.replies)),
        "==",
        wanted,
        evidence=f"{evidence.params.agents} agents, {evidence.params.turns} turns each{_rounds(crowd)}"
        f"{tell_tried(evidence, crowd)}{tell_refusals(answered)}",
        failed="; ".join(crowd.errors[:3]),
    )


def _overcommitted(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    budget, total = evidence.params.kv_device_gb * GB, _total_bytes(evidence, crowd)
    row = Row("crowd_overcommits", "All agents' KV together is more than the device may hold", unit="times the budget")
    return row.judge(
        total / budget,
        ">",
        1.0,
        evidence=f"{format_bytes(total)} of KV at the end, {format_bytes(budget)} on the device",
        failed="nobody had to sleep, and nothing is shown about sharing; lower kv_device_gb or ask for more agents",
    )


def _total_bytes(evidence: AgentsEvidence, crowd: CrowdRun) -> int:
    """Return the KV of all agents at the end."""
    return sum(evidence.kv_bytes(tokens_of(crowd, number)) for number in range(len(crowd.scripts)))


def tokens_of(crowd: CrowdRun, number: int) -> int:
    """Return the tokens of an agent's session at the end."""
    script = crowd.scripts[number]
    answers = sum(len(reply.ids) or len(reply.token_at_s) for reply in crowd.replies[number])
    return len(script.prompt) + sum(map(len, script.follow_ups)) + answers


def _held(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    held = max((_count_agents(sample.states) for sample in crowd.samples), default=None)
    resident = max((_count_agents(sample.states, _RESIDENT) for sample in crowd.samples), default=0)
    where = "" if _why_unknown(crowd) else f"; at most {resident} of them on the device at once"
    moves = "" if crowd.swaps is None else f"; {crowd.swaps} swaps and {crowd.restores} restores were counted"
    row = Row("crowd_held_at_once", "All agents' sessions were open at the same time", unit="sessions")
    return row.judge(
        held,
        "==",
        evidence.params.agents,
        evidence=f"the server's list of sessions{where}{moves}",
        missing=f"a server of kind {evidence.params.adapter!r} does not list its sessions",
    )


def _count_agents(states: dict[str, str], among: Sequence[str] | None = None) -> int:
    return sum(name.startswith(SESSION_PREFIX) and (among is None or state in among) for name, state in states.items())


def _why_unknown(crowd: CrowdRun) -> str:
    """Return why it is not known where the agents' sessions were when the server listed them; empty if it is."""
    return why_unknown(
        state for look in crowd.samples for name, state in look.states.items() if name.startswith(SESSION_PREFIX)
    )


def _swapped(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    """With all sessions open at once, those that the budget has no place for are asleep: each has left once or more."""
    smallest = evidence.kv_bytes(evidence.params.agent_prompt_tokens)
    room = int(evidence.params.kv_device_gb * GB // smallest)
    row = Row("crowd_swapped", "The agents that the budget has no room for left the device", unit="swaps")
    return row.judge(
        crowd.swaps,
        ">=",
        max(1, evidence.params.agents - room),
        evidence=f"the server's record of each session; the budget has room for {room} at most",
        missing=f"a server of kind {evidence.params.adapter!r} does not count its swaps",
        failed="is its budget larger than the check was told?",
    )


def _resident(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    """Every open session's KV is at least its first prompt's; a session that is moving may be in both places."""
    smallest = evidence.kv_bytes(evidence.params.agent_prompt_tokens)
    most = max((_count_agents(look.states, _ON_DEVICE) for look in crowd.samples if look.states), default=None)
    doubt = _why_unknown(crowd)
    row = Row(
        "crowd_resident_in_budget",
        "The sessions on the device never took more than the KV budget",
        unit="times the budget",
    )
    return row.judge(
        None if most is None or doubt else most * smallest / (evidence.params.kv_device_gb * GB),
        "<=",
        1.0,
        evidence=f"the server's list of sessions, {len(crowd.samples)} looks; at least {format_bytes(smallest)} each",
        missing=doubt or f"a server of kind {evidence.params.adapter!r} does not list its sessions",
        failed="is its budget larger than the check was told?",
    )


def _rounds(crowd: CrowdRun) -> str:
    return f", {crowd.rounds} times" if crowd.rounds > 1 else ""


def _power(evidence: AgentsEvidence, crowd: CrowdRun, *, wrong: bool) -> Criterion:
    """What was run says so much and no more about restores that are wrong once in a while."""
    most, restores = evidence.params.most_wrong_rate, crowd.least_restores()
    row = Row("wrong_rate_excluded", "Wrong restores are rarer than this, or one would have been seen",
              unit="of restores", required=most is not None)  # fmt: skip
    if restores is None:
        told = "the server does not say how many sessions came back"
    elif not restores:
        told = "no session came back, so nothing is shown"
    elif wrong:
        told = f"{restores:,} restores, and answers that are wrong: no rate is excluded"
    else:
        seconds = (crowd.ended_s - crowd.started_s) / restores * restores_for(_RARE)
        told = (
            f"{restores:,} restores and none wrong: a rate above {rate_excluded(restores):.2g} would have been seen "
            f"with 95 %; for 1 in {1 / _RARE:,.0f} it takes {restores_for(_RARE):,} of them, {format_seconds(seconds)} "
            "at this pace"
        )
    if most is None:
        return row.skip(f"no limit was given; {told}")
    return row.judge(
        rate_excluded(restores) if restores and not wrong else None,
        "<=",
        most,
        evidence=told,
        missing=told,
        failed=f"too few restores; {restores_for(most):,} are needed, give a larger soak_s",
        instrument=True,
    )


def _never_while_decoding(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    """A sample counts for a session if the session's first token had come before it was asked for, and its last
    token came after it was answered: then the session was decoding all the while."""
    looked, wrong = 0, 0
    for sample in crowd.samples:
        for number, replies in enumerate(crowd.replies):
            if any(reply.token_at_s[0] < sample.asked_s and sample.answered_s < reply.end_s for reply in replies):
                looked += 1
                wrong += sample.states.get(session_of(number), "SWAPPED") in _OFF_DEVICE
    doubt = _why_unknown(crowd)
    row = Row("decoding_stays", "No session left the device while it was decoding", unit="samples")
    return row.judge(
        wrong if looked and not doubt else None,
        "==",
        0,
        evidence=f"{looked} looks at the server's list between an answer's first token and its last",
        missing=doubt
        or (
            "no look at the list fell into a decode; have the server answer GET /v1/sessions while it decodes and not "
            "only between turns, or ask for longer answers (agent_new_tokens)"
            if crowd.samples
            else "the server does not list its sessions"
        ),
    )


def _within_budget(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    """Where all agents' KV would not show in the memory, as its slack is larger, nothing is shown."""
    budget = evidence.params.kv_device_gb * GB
    limit = _OVERSHOOT * budget + _OWN_ACCORD_BYTES[evidence.device.type]
    total, growth = _total_bytes(evidence, crowd), _growth(evidence, crowd)
    would_show = total > limit
    row = Row(
        "crowd_within_budget",
        "Seen from outside, the device's memory grew by no more than the KV budget",
        unit="times the budget",
    )
    return row.judge(
        growth / budget if growth is not None and would_show else None,
        "<=",
        limit / budget,
        evidence=f"{evidence.memory.source if evidence.memory else 'no instrument'}; all agents' KV is "
        f"{total / budget:.3g} times the budget",
        missing="the agents' KV is too little to show in the memory"
        if not would_show
        else evidence.memory_reason or "the memory was not read from before the crowd came until it left",
        failed="sessions that were counted as swapped are still there",
    )


def _growth(evidence: AgentsEvidence, crowd: CrowdRun) -> int | None:
    """Return by how many bytes more than before the crowd were held in the device's memory; None if not read."""
    memory = evidence.memory
    if memory is None or memory.longest_gap_s(crowd.started_s, crowd.ended_s) > _LONGEST_GAP_S:
        return None
    start = memory.typical(crowd.started_s - SETTLE_S / 2, crowd.started_s)
    held = memory.held(crowd.started_s, crowd.ended_s)
    return None if start is None or held is None else held - start


def _load(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    row = Row("offered_load", "The server could keep up with the agents", unit="share of capacity", required=False)
    return row.judge(
        crowd.offered_load,
        "<",
        evidence.params.load_limit,
        evidence="the time that all turns take alone, over the time in which they were asked for",
        missing="fewer than two requests were sent",
        failed="a wake latency would measure the queue; lower arrival_rate or give longer pauses",
    )


def _wake(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    row = Row("wake_p99", "A sleeping agent's first token comes soon after its request", unit="s")
    limit, load = evidence.params.wake_p99_s, crowd.offered_load
    seconds = [reply.felt_wake_s for reply in crowd.wakes()]
    told = f"{len(seconds)} wakes, p50 {format_seconds(percentile(seconds, 50))}, by the client's clock"
    if limit is None:
        return row.skip(f"no limit was given; p99 {format_seconds(percentile(seconds, 99))}")
    too_high = load is None or load >= evidence.params.load_limit
    return row.judge(
        None if too_high or not seconds else percentile(seconds, 99),
        "<=",
        limit,
        evidence=told,
        missing="the offered load is too high: a latency would measure the queue" if seconds else "nobody woke",
    )


def _restore(evidence: AgentsEvidence, crowd: CrowdRun) -> Criterion:
    row = Row("restore_p99", "Under load a restore takes little longer than alone", unit="times")
    seconds = crowd.restore_times_s()
    alone = evidence.unloaded_restore_s()
    p99 = percentile(seconds, 99)
    if evidence.params.restore_p99_ratio is None:
        said = f"p99 {format_seconds(p99)}, alone {format_seconds(alone)}"
        return row.skip(f"no limit was given; {said}")
    # The sleeper's KV and an agent's may differ in size; a restore's time is in proportion to it.
    size = evidence.params.agent_prompt_tokens / evidence.params.prompt_tokens
    return row.judge(
        None if alone is None or p99 is None else p99 / (alone * size),
        "<=",
        evidence.params.restore_p99_ratio,
        evidence=f"{len(seconds)} restores, by the server's account; alone {format_seconds(alone)}",
        missing=f"a server of kind {evidence.params.adapter!r} does not say how long a restore takes",
    )
