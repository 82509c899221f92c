"""What other threads ask is run once, in order, by the engine's thread, and refused when that has failed."""

from __future__ import annotations

import pytest

from djinn_checks.engine.inbox import Inbox
from djinn_checks.errors import EngineError


def test_calls_are_run_in_the_order_they_came_and_only_when_they_are_heard() -> None:
    inbox, ran = Inbox(), []
    inbox.put(lambda: ran.append("put"))
    inbox.deliver(lambda: ran.append("delivered"))
    answer = inbox.ask(lambda: len(ran))
    assert ran == []
    assert not answer.done()
    inbox.hear()
    assert ran == ["put", "delivered"]
    assert answer.result() == 2


def test_an_error_is_the_answer_of_whoever_asked_and_of_nobody_else() -> None:
    inbox = Inbox()
    wrong, right = inbox.ask(lambda: 1 / 0), inbox.ask(lambda: 1)
    inbox.hear()
    assert isinstance(wrong.exception(), ZeroDivisionError)
    assert right.result() == 1


def test_a_closed_inbox_runs_nothing_more_and_a_call_may_close_it() -> None:
    inbox, ran = Inbox(), []
    inbox.put(lambda: setattr(inbox, "is_closed", True))
    inbox.put(lambda: ran.append("late"))
    inbox.hear(wait=True, timeout_s=0.0)
    assert ran == []


def test_after_a_failure_what_is_asked_is_refused_at_once() -> None:
    inbox = Inbox()
    inbox.failure = ZeroDivisionError("planted")
    with pytest.raises(EngineError, match="after a ZeroDivisionError"):
        inbox.ask(lambda: 1).result(timeout=1)
