"""What the agents say: a first prompt with a code word in it, and what follows after each answer.

Every agent has a code word of its own, which may never appear in another agent's text. Prompts are token ids,
so that a session's history is continued exactly as it was. Models without a tokenizer get random tokens, and
their code word is a sequence of eight of them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from djinn_checks.checks.prompts import PROMPTS
from djinn_checks.models.open import Model

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")
_FOLLOW_UP = "\n\nAnd what comes after that? "
_FOLLOW_UP_TOKENS = 8

SESSION_PREFIX = "agent-"
"""With it the session ids of agents begin that come many at a time."""


def session_of(number: int) -> str:
    """Return the id of the session that agent `number` holds."""
    return f"{SESSION_PREFIX}{number}"


@dataclass(frozen=True, kw_only=True)
class AgentScript:
    """One agent's part."""

    prompt: tuple[int, ...]
    follow_ups: tuple[tuple[int, ...], ...]
    """Token ids that go behind each answer, one for each turn after the first."""
    code_word: str
    code_ids: tuple[int, ...]
    """The code word's tokens, for models without text."""


def write_script(model: Model, *, number: int, tokens: int, turns: int, seed: int) -> AgentScript:
    """Return the part of agent `number`: a prompt of `tokens` tokens and `turns` - 1 follow-ups.

    Args:
        seed: the same seed and number give the same part.
    """
    chance = random.Random(f"{seed}-{number}")
    if model.tokenizer is None:
        return _write_random(model, chance, tokens, turns)
    code_word = "".join(chance.choice(_SYLLABLES) for _ in range(5))
    start = f"You are agent {number} and your code word is {code_word}. Continue the text.\n\n"
    passages = chance.sample(PROMPTS[-12:], k=12)
    ids = model.encode(start + "\n\n".join(passages * (1 + tokens // 500)), tokens)
    follow_up = tuple(model.encode(_FOLLOW_UP, 64))
    return AgentScript(prompt=tuple(ids), follow_ups=(follow_up,) * (turns - 1), code_word=code_word, code_ids=())


def _write_random(model: Model, chance: random.Random, tokens: int, turns: int) -> AgentScript:
    def draw(count: int) -> tuple[int, ...]:
        return tuple(chance.randrange(3, model.vocabulary) for _ in range(count))

    code = draw(8)
    prompt = (*code, *draw(tokens))[:tokens]
    follow_ups = tuple(draw(_FOLLOW_UP_TOKENS) for _ in range(turns - 1))
    return AgentScript(prompt=prompt, follow_ups=follow_ups, code_word="", code_ids=code)


def says_code_word(script: AgentScript, text: str, ids: Sequence[int]) -> bool:
    """Tell whether a text, or its tokens, contains an agent's code word."""
    if script.code_word:
        return script.code_word in text
    length = len(script.code_ids)
    return any(tuple(ids[at : at + length]) == script.code_ids for at in range(len(ids) - length + 1))
