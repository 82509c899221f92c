"""What a twin lacks that never slept is no loss by a sleep; a server that says 0 of everybody says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from djinn_checks import Status
from djinn_checks.checks.agents.sleeper_criteria import _not_recomputed
from tests.checks.agents.made_evidence import TOKENS, make_evidence, make_one_sleep, make_reply

HAD = TOKENS - 1


@pytest.mark.parametrize(
    ("slept", "twin", "status", "observed"),
    [
        (HAD, HAD, Status.PASS, 0),
        (HAD - 4, HAD - 4, Status.PASS, 0),  # a part of a block, or what a text's tokens became
        (HAD - 4, HAD, Status.FAIL, 4),
        (HAD - 9, HAD - 4, Status.FAIL, 5),
        (0, HAD, Status.FAIL, HAD),
        (0, 0, Status.INCONCLUSIVE, None),
        (None, HAD, Status.INCONCLUSIVE, None),
        (None, None, Status.INCONCLUSIVE, None),
        (HAD, None, Status.PASS, 0),
        (HAD - 1, None, Status.FAIL, 1),
    ],
)
def test_what_is_short_is_held_against_the_twin(
    slept: int | None, twin: int | None, status: Status, observed: int | None
) -> None:
    made = make_one_sleep(lambda at: 0).sleeper
    sleep = replace(made.sleeps[0], reply=replace(make_reply(13.0, 13.1), cached_tokens=slept))
    hot = (make_reply(0.0, 0.1), replace(make_reply(0.2, 0.3), cached_tokens=twin))
    row = _not_recomputed(make_evidence(sleeper=replace(made, sleeps=(sleep,), hot=hot)))
    assert (row.status, row.observed) == (status, observed)
    assert ("the server says 0" in row.reason) == (slept == twin == 0)
