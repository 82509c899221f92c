"""What a server of kind `none` makes no claim about: that it keeps a session's KV, moves it, or gives its place back.

Of such a server only the answers can be judged, before a pause and after it. Rows about the rest would accuse it of
what it never said; they are skipped, and a row of its own says that nothing was shown about sleep. That row is
required, so such a server never passes as one whose agents sleep.
"""

from __future__ import annotations

from collections.abc import Sequence

from djinn_checks.checks.agents.connect import ADAPTERS
from djinn_checks.outcome import Criterion, Status, judge, skip
from djinn_checks.params import AgentsParams

_ABOUT_ANSWERS = frozenset(
    {
        "survives_sleep", "speaks_for_model", "text_equals_twin", "coherent", "equals_generate", "decode_of_generate",
        "crowd_answered", "crowd_texts_equal_twins", "code_words_kept", "code_words_recalled",
        "offered_load", "wake_p99",
    }
)  # fmt: skip
"""Rows that any server can be held to. That log-probabilities are the same bit for bit is none of them: a server that
keeps a cache of prefixes may compute a prompt in other parts each time."""


def skip_unclaimed(params: AgentsParams, rows: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """Return the rows with those skipped that a server of this kind makes no claim about."""
    if ADAPTERS[params.adapter].has_sessions:
        return tuple(rows)
    reason = f"a server of kind {params.adapter!r} has no sessions that it claims to keep or to have sleep"
    judged = [row for row in rows if row.name in _ABOUT_ANSWERS]
    others = [row for row in rows if row.name not in _ABOUT_ANSWERS]
    skipped = [skip(row.name, row.title, unit=row.unit, required=row.required, reason=reason) for row in others]
    return (*judged, _judge_sleep(params, judged), *skipped)


def _judge_sleep(params: AgentsParams, judged: Sequence[Criterion]) -> Criterion:
    asked = [row for row in judged if row.required and row.status is not Status.SKIP]
    hold = sum(row.status is Status.PASS for row in asked)
    kinds = ", ".join(name for name, kind in ADAPTERS.items() if kind.has_sessions)
    return judge(
        "sleep_claimed",
        "The server says that its sessions sleep, and that can be judged",
        None,
        "==",
        True,
        unit="",
        evidence=f"adapter: {params.adapter}",
        missing=f"a server of kind {params.adapter!r} says nothing about sleep, so nothing was judged but its answers: "
        f"{hold} of {len(asked)} rows about them hold; for a server with sessions give adapter {kinds}",
    )
