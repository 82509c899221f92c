"""How far answers are from others that should be the same: in tokens, and in nats of a log-probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from djinn_checks.checks.agents.reply import Reply


def differing_tokens(replies: Sequence[Reply], others: Sequence[Reply]) -> int | None:
    """Return how many places of two series of answers differ, a missing answer counting as one.

    Characters where one side has no token ids. None if an answer has neither, on both sides: that nothing differs
    between two answers that say nothing is no evidence.
    """
    count = 0
    for left, right in zip(replies, others, strict=False):
        if not (left.ids or left.text or right.ids or right.text):
            return None
        a, b = (left.ids, right.ids) if left.ids and right.ids else (left.text, right.text)
        count += sum(x != y for x, y in zip(a, b, strict=False)) + abs(len(a) - len(b))
    return count + abs(len(replies) - len(others))


def distance(replies: Sequence[Reply], others: Sequence[Reply]) -> float | None:
    """Return the largest difference of two log-probabilities at the same place; None without any.

    Answers of other lengths are infinitely far apart, and so are a number and minus infinity; two minus infinities are
    equal. A place where both sides gave null is left out. One where one side alone did leaves all unknown.
    """
    largest: float | None = None
    for left, right in zip(replies, others, strict=True):
        a, b = left.fingerprint, right.fingerprint
        if not a or not b:
            return None
        if len(a) != len(b):
            return math.inf
        for x, y in zip(a, b, strict=True):
            if (x is None) is not (y is None):
                return None
            if x is not None and y is not None:
                largest = max(largest or 0.0, 0.0 if x == y else abs(x - y))
    return largest


def turn_distance(reply: Reply, twin: Reply) -> float | None:
    """Return the largest difference of a log-probability up to the first token that differs, and there at least the
    twin's margin between its token and the next likely. None without log-probabilities or tokens to hold them by.

    Tokens are held by their ids, or as they are written where a side has none.
    """
    if reply.ids == twin.ids and reply.text == twin.text:
        return distance([reply], [twin])
    said, by_twin = _tokens(reply, twin)
    if not (said and by_twin and reply.logprobs and twin.logprobs):
        return None
    place = next((at for at, (a, b) in enumerate(zip(said, by_twin, strict=False)) if a != b), None)
    if place is None and len(said) == len(by_twin) and not reply.ids:
        return None  # other tokens are written the same
    if place is None:  # one of them ends where the other goes on, or the same tokens gave other texts
        return math.inf
    pairs = list(zip(reply.logprobs[: place + 1], twin.logprobs[: place + 1], strict=False))
    known = [0.0 if a == b else abs(a - b) for a, b in pairs if a is not None and b is not None]
    return max([*known, _margin(twin, place)]) if known else None


def _tokens(reply: Reply, twin: Reply) -> tuple[Sequence[int | str], Sequence[int | str]]:
    """Return what tells the tokens of two answers apart; nothing if it is not one for each log-probability."""
    if reply.ids and twin.ids:
        return reply.ids, twin.ids
    are_whole = all(len(one.tokens) == len(one.logprobs) for one in (reply, twin))
    return (reply.tokens, twin.tokens) if are_whole else ((), ())


def _margin(twin: Reply, place: int) -> float:
    each = len(twin.runners_up) // len(twin.ids or twin.logprobs)
    told = [value for value in twin.runners_up[place * each : (place + 1) * each] if value is not None]
    best = sorted(told, reverse=True)
    return next((a - b for a, b in pairwise(best)), 0.0)
