"""The rows about the code words: each agent has one, says it when it is asked for it at its end, and never another's.

Another's word in an answer is contamination, whoever asked for it. One's own that is missing is loss, if the twin said
it and no rounding can have put another token in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_distance import GROSS, TurnDistance
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import says_code_word
from djinn_checks.outcome import Criterion, Row


def judge_code_words(crowd: CrowdRun, found: Sequence[TurnDistance]) -> list[Criterion]:
    """Return the rows about contamination and about loss."""
    return [_kept(crowd), _recalled(crowd, found)]


def _answers(crowd: CrowdRun) -> Iterator[tuple[int, Reply]]:
    """Give every answer that somebody got, with the number of the agent whose session was asked."""
    for number, replies in enumerate(crowd.replies):
        yield from ((number, reply) for reply in replies)
    yield from ((second.agent, second.reply) for second in crowd.seconds if second.reply)


def _kept(crowd: CrowdRun) -> Criterion:
    said = {
        (speaker, owner): None
        for speaker, reply in _answers(crowd)
        for owner, script in enumerate(crowd.scripts)
        if speaker % len(crowd.scripts) != owner and says_code_word(script, reply.text, reply.ids)
    }
    leaks = [f"agent {speaker} said agent {owner}'s" for speaker, owner in said]
    row = Row("code_words_kept", "No agent said another's code word", unit="leaks")
    return row.judge(
        len(leaks),
        "==",
        0,
        evidence=f"{len(crowd.scripts)} code words, one in each agent's prompt",
        failed="; ".join(leaks[:3]),
    )


def _recalled(crowd: CrowdRun, found: Sequence[TurnDistance]) -> Criterion:
    """Informative: an agent that says something else than its twin fails for that; what it forgot is told here."""
    row = Row("code_words_recalled", "Asked for its code word at its end, every agent says it as its twin does",
              unit="lost", required=False)  # fmt: skip
    asked = [number for number, replies in enumerate(crowd.replies) if len(replies) == len(crowd.twin_of(number))]
    known = [number for number in asked if _says_its_own(crowd, number, crowd.twin_of(number)[-1])]
    if not known:
        return row.skip("no twin that was alone said its code word when asked: this model repeats none")
    rounded = {(turn.agent, turn.turn) for turn in found if turn.nats is not None and turn.nats <= GROSS}
    silent = [number for number in known if not _says_its_own(crowd, number, crowd.replies[number][-1])]
    lost = [number for number in silent if (number, len(crowd.replies[number]) - 1) not in rounded]
    unsure = len(silent) - len(lost)
    told = f"; {unsure} said another token that was nearly as likely" if unsure else ""
    return row.judge(
        len(lost),
        "==",
        0,
        evidence=f"{len(known)} of {len(asked)} agents, whose twins say theirs alone{told}",
        failed=f"agents {', '.join(map(str, lost[:8]))} do not know it any more",
    )


def _says_its_own(crowd: CrowdRun, number: int, reply: Reply) -> bool:
    return says_code_word(crowd.scripts[number % len(crowd.scripts)], reply.text, reply.ids)
