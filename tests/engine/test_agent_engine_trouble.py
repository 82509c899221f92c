"""What goes wrong is one session's or one turn's trouble: nobody hangs, starves, is lost or left behind."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_checks.engine.kv_mover import Later, Move, Moved
from djinn_checks.engine.session import State
from djinn_checks.engine.spill_file import SpillFile
from djinn_checks.engine.turn import Token, TurnRequest
from djinn_checks.errors import EngineError, KvCapacityError
from tests.engine.agent_bench import LONG, Bench, fail, prompt_of, two_turns


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.stop()


def test_a_device_with_less_memory_than_the_limit_allows_is_a_capacity_error_and_the_server_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bench.engine.store.memory, "_allocate", fail)
        error = bench.answer("a", prompt_of(1)).error
    assert isinstance(error, KvCapacityError)
    assert "itself has less" in str(error)
    assert bench.answer("a", prompt_of(1)).error is None


def test_a_defect_in_the_engines_thread_ends_every_turn_and_refuses_what_comes_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = bench.engine
    heard, _ = bench.ask("a", prompt_of(1), 7000)
    engine.start()
    while not heard.tokens:
        time.sleep(0.01)
    monkeypatch.setattr(engine.scheduler, "to_sleep", lambda: 1 / 0)
    engine.post(lambda: None)
    deadline = time.monotonic() + 10
    while engine.failure is None or not heard.is_over:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    later, _ = bench.ask("b", prompt_of(2))
    for error in (heard.error, later.error, engine.post(lambda: 1).exception(timeout=5)):
        assert isinstance(error, EngineError)
        assert "after a ZeroDivisionError" in str(error)


def test_a_session_on_the_device_that_will_compute_stays_for_a_while_and_starves_nobody() -> None:
    bench = Bench(device_mib=2)
    bench.answer("a", prompt_of(1, LONG))
    bench.engine.prefetch("a")
    assert bench.answer("b", prompt_of(2, LONG)).error is None
    assert (bench.session("a").kept, bench.session("a").swaps) == (0, 1)


def test_a_session_that_was_to_compute_and_never_did_is_closed_in_its_time() -> None:
    bench = Bench(ttl_s=10)
    bench.answer("a", prompt_of(1))
    bench.engine.prefetch("a")
    bench.now += 1.01
    bench.reach("a", State.SWAPPED)
    bench.engine.prefetch("a")
    bench.reach("a", State.IDLE)
    bench.now += 10.01
    bench.until(lambda: not bench.engine.scheduler.sessions)


def test_a_swap_out_that_fails_is_not_tried_again_at_once_and_who_waits_for_it_hears_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(device_mib=2, host_mib=0, spill=tmp_path)
    first = bench.answer("a", prompt_of(1, LONG))
    attempts: list[int] = []

    def full(self: object, extent: object, data: object) -> None:
        attempts.append(1)
        raise KvCapacityError("no space left on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(SpillFile, "write", full)
        refused = bench.answer("b", prompt_of(2, LONG)).error
    assert len(attempts) == 1
    assert isinstance(refused, KvCapacityError)
    assert "could not: KvCapacityError: no space left" in str(refused)
    deadline = bench.engine.scheduler.seconds_to_deadline()
    assert deadline is not None
    assert deadline > 1
    bench.now += 6
    assert bench.answer("b", prompt_of(2, LONG)).error is None
    twin = two_turns(Bench(), "a", prompt_of(1, LONG))[1]
    assert bench.answer("a", [*prompt_of(1, LONG), *first.ids, 7, 8], logprobs=2).tokens == twin.tokens


def test_a_restore_that_fails_leaves_the_session_asleep_and_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = two_turns(Bench(), "a", prompt_of(1))[1]
    first = bench.answer("a", prompt_of(1))
    bench.fall_asleep("a")
    with monkeypatch.context() as patch:
        patch.setattr(bench.engine.store, "move_in", lambda parked, block: fail())
        assert isinstance(bench.answer("a", [*prompt_of(1), *first.ids, 7, 8]).error, torch.OutOfMemoryError)
    assert bench.session("a").state is State.SWAPPED
    again = bench.answer("a", [*prompt_of(1), *first.ids, 7, 8], logprobs=2)
    assert again.tokens == twin.tokens
    assert again.end is not None
    assert again.end.reused_tokens == 43


def test_room_is_reckoned_in_the_blocks_that_are_taken() -> None:
    bench = Bench(device_mib=5)
    bench.answer("a", prompt_of(1, 2 * LONG))  # on 4 MiB
    assert bench.answer("b", prompt_of(2)).error is None
    assert bench.session("a").state is State.SWAPPED
    running, _ = bench.ask("c", prompt_of(3), 200)
    bench.until(lambda: len(running.tokens) > 3)
    huge, _ = bench.ask("d", prompt_of(4), 2200)  # 4.5 MB, for which 6 MiB would be taken
    bench.engine.advance()
    assert isinstance(huge.error, KvCapacityError)
    assert not running.is_over


def test_two_sessions_that_grow_at_once_are_both_answered() -> None:
    bench = Bench(device_mib=5)
    prompts = {"a": prompt_of(1, LONG), "b": prompt_of(2, LONG)}
    longer = {name: [*prompt, *prompt_of(3, LONG)] for name, prompt in prompts.items()}
    twins = {name: Bench().answer(name, prompt).ids for name, prompt in longer.items()}
    for name, prompt in prompts.items():
        bench.answer(name, prompt)
    heard = {name: bench.ask(name, prompt)[0] for name, prompt in longer.items()}
    bench.until(lambda: all(answer.is_over for answer in heard.values()))
    assert {name: answer.ids for name, answer in heard.items()} == twins


def test_a_session_that_comes_back_early_has_room_for_a_turn_like_the_last() -> None:
    bench = Bench(device_mib=5)
    prompt = prompt_of(1, 1020)  # with four tokens it fills 2 MiB to the last token
    first = bench.answer("a", prompt)
    bench.fall_asleep("a")
    bench.engine.prefetch("a")
    bench.reach("a", State.IDLE)
    assert bench.answer("a", [*prompt, *first.ids, 3]).error is None
    assert (bench.session("a").swaps, bench.session("a").restores) == (1, 1)


def test_refused_requests_leave_no_session_behind() -> None:
    bench = Bench(device_mib=2, host_mib=0, max_sessions=2)
    bench.answer("a", prompt_of(1, LONG))
    for name in "bcd":
        assert isinstance(bench.answer(name, prompt_of(2, LONG)).error, KvCapacityError)
    assert list(bench.engine.scheduler.sessions) == ["a"]


def test_every_refusal_is_heard_without_another_event() -> None:
    bench = Bench(device_mib=2, host_mib=0)
    bench.answer("a", prompt_of(1, LONG))
    heard = [bench.ask(name, prompt_of(2, LONG))[0] for name in "bcd"]
    bench.engine.advance()
    assert all(isinstance(answer.error, KvCapacityError) for answer in heard)


def test_first_tokens_come_in_the_order_of_arrival(bench: Bench) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[Any], None]:
        return lambda event: order.append(name) if isinstance(event, Token) else None

    for seed, name in enumerate("abcde"):
        bench.engine.submit(name, TurnRequest(prompt=tuple(prompt_of(seed)), max_tokens=3), note(name))
    bench.until(lambda: len(order) == 15)
    assert order[:5] == list("abcde")


def test_when_a_moves_end_is_heard_of_nothing_refers_to_what_it_moved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves, held, was_alive = bench.engine._moves, [], []
    is_under_way = threading.Event()

    def wait() -> Moved:
        is_under_way.wait(10)
        return Moved(nbytes=0, digests=(), copy_s=0.0, total_s=0.0)

    def start() -> Move:
        move = Later(wait)
        held.append(weakref.ref(move))
        return move

    monkeypatch.setattr(moves, "_post", lambda hear: was_alive.append(held[0]() is not None))
    moves._move(moves._out, start, lambda done: None)
    is_under_way.set()
    moves.finish()
    assert was_alive == [False]
