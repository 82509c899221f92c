"""What the agents say: a first prompt with a code word in it, and what follows after each answer.

Every agent has a code word of its own, which may never appear in another agent's text. One that closes is asked for it
in its last turn. Prompts may begin alike, as sessions under one system prompt do. Prompts are token ids, so that a
session's history is continued exactly as it was. Models without a tokenizer get random tokens, and their code word is
a sequence of eight of them, which nobody can be asked for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from djinn_checks.checks.prompts import PROMPTS
from djinn_checks.models.open import Model

_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu")
_FOLLOW_UP = "\n\nAnd what comes after that? "
_FOLLOW_UP_TOKENS = 8
_CLOSING = "\n\nYour code word is"
"""The question in the form in which a small model answers it too; SmolLM2 gave five words of five."""
_CODE_WORD_TOKENS = 8
"""Of an answer that has room for a code word: ten letters, of which a tokenizer takes two and more at a time."""
_OWN_TOKENS = 32
"""Of a prompt that begins as others do: what is left for the code word and a text of its own."""
_SYSTEM = "You are one of many agents that share a server. Each has a code word and keeps it to itself.\n\n"

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
    shared_tokens: int = 0
    """With which the prompt begins, and others of the same seed and length as well."""
    asks: bool = False
    """Whether the last follow-up asks for the code word."""

    def answer_tokens(self, turn: int, usual: int) -> int:
        """Return the tokens to ask for in a turn, counted from 0: `usual`, and room for a code word that is due."""
        is_due = self.asks and turn == len(self.follow_ups)
        return max(usual, _CODE_WORD_TOKENS) if is_due else usual


def write_script(
    model: Model, *, number: int, tokens: int, turns: int, seed: int, shares: bool = False, closes: bool = False
) -> AgentScript:
    """Return the part of agent `number`: a prompt of `tokens` tokens and `turns` - 1 follow-ups.

    Args:
        seed: the same seed and number give the same part.
        shares: whether the prompt begins as those of all others do that share.
        closes: whether the last follow-up asks for the code word. Has no effect on a model without text.
    """
    chance = random.Random(f"{seed}-{number}")
    shared = max(0, min(tokens // 2, tokens - _OWN_TOKENS)) if shares else 0
    of_all = random.Random(f"{seed}-shared")
    if model.tokenizer is None:
        return _write_random(model, chance, of_all, tokens, turns, shared)
    code_word = "".join(chance.choice(_SYLLABLES) for _ in range(5))
    start = f"You are agent {number} and your code word is {code_word}. Continue the text.\n\n"
    system = model.encode(_SYSTEM + _passages(of_all, shared), shared) if shared else []
    ids = model.encode(start + _passages(chance, tokens), tokens - len(system))
    follow_ups = [tuple(model.encode(_FOLLOW_UP, 64))] * (turns - 1)
    if closes and follow_ups:
        follow_ups[-1] = tuple(model.encode(_CLOSING, 64))
    return AgentScript(
        prompt=(*system, *ids),
        follow_ups=tuple(follow_ups),
        code_word=code_word,
        code_ids=(),
        shared_tokens=len(system),
        asks=closes and turns > 1,
    )


def end_on_block(script: AgentScript, new_tokens: int, block_tokens: int) -> AgentScript:
    """Return the part with a prompt that is so much shorter that the first answer ends where a block of the cache does.

    An answer's last token is not fed back, so its KV is never computed. A cache of whole blocks that counts what was
    said and not what was computed keeps that block all the same: vLLM 0.26.0 does if it is to offload answers.
    """
    surplus = (len(script.prompt) + new_tokens) % block_tokens
    is_long = len(script.prompt) - surplus >= max(script.shared_tokens + _OWN_TOKENS, block_tokens)
    return replace(script, prompt=script.prompt[: len(script.prompt) - surplus]) if is_long else script


def _passages(chance: random.Random, tokens: int) -> str:
    """Return more text than so many tokens have."""
    return "\n\n".join(chance.sample(PROMPTS[-12:], k=12) * (1 + tokens // 500))


def _write_random(
    model: Model, chance: random.Random, of_all: random.Random, tokens: int, turns: int, shared: int
) -> AgentScript:
    def draw(count: int, by: random.Random = chance) -> tuple[int, ...]:
        return tuple(by.randrange(3, model.vocabulary) for _ in range(count))

    code = draw(8)
    prompt = (*draw(shared, of_all), *code, *draw(tokens))[:tokens]
    follow_ups = tuple(draw(_FOLLOW_UP_TOKENS) for _ in range(turns - 1))
    return AgentScript(prompt=prompt, follow_ups=follow_ups, code_word="", code_ids=code, shared_tokens=shared)


def says_code_word(script: AgentScript, text: str, ids: Sequence[int]) -> bool:
    """Tell whether a text, or its tokens, contains an agent's code word."""
    if script.code_word:
        return script.code_word in text
    length = len(script.code_ids)
    return any(tuple(ids[at : at + length]) == script.code_ids for at in range(len(ids) - length + 1))
