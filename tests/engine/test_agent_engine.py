"""Sessions leave the device, come back whole, and answer as if they had never slept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from djinn_checks.engine.agent_engine import AgentEngine
from djinn_checks.engine.session import Session, State
from djinn_checks.engine.turn import TurnRequest
from djinn_checks.errors import (
    BusyError,
    KvCapacityError,
    KvDigestError,
    TransitionError,
    UnknownSessionError,
)
from djinn_checks.units import MIB
from tests.engine.agent_bench import LONG, Bench, Heard, fail, prompt_of, two_turns


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.engine.stop()


def test_a_session_that_slept_answers_bit_for_bit_like_its_twin(bench: Bench) -> None:
    hot = two_turns(bench, "hot", prompt_of(1))
    slept = two_turns(bench, "slept", prompt_of(1), lambda: bench.fall_asleep("slept"))
    assert [answer.tokens for answer in hot] == [answer.tokens for answer in slept]
    session = bench.session("slept")
    assert (session.swaps, session.restores) == (1, 1)
    assert session.digest_in == session.digest_out is not None
    assert bench.session("hot").swaps == 0


def test_tokens_equal_those_of_transformers_generate(bench: Bench) -> None:
    prompt = prompt_of(2)
    expected = bench.module.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert bench.answer("a", prompt, 12).ids == expected[0, len(prompt) :].tolist()


def test_what_the_session_still_has_is_not_computed_again(bench: Bench) -> None:
    first, second = two_turns(bench, "a", prompt_of(1), lambda: bench.fall_asleep("a"))
    assert first.end is not None
    assert second.end is not None
    assert (first.end.prefilled_tokens, first.end.reused_tokens) == (40, 0)
    assert (second.end.prefilled_tokens, second.end.reused_tokens) == (3, 43)  # the fourth token was never fed


def test_another_prompt_reuses_only_what_is_common_and_never_the_last_token(bench: Bench) -> None:
    prompt = prompt_of(1)
    bench.answer("a", prompt)
    again = bench.answer("a", prompt, logprobs=0)
    assert again.end is not None
    assert again.end.reused_tokens == 39
    other = [*prompt[:10], *prompt_of(9, 20)]
    changed, fresh = bench.answer("a", other), bench.answer("b", other)
    assert changed.ids == fresh.ids
    assert changed.end is not None
    assert changed.end.reused_tokens == 10


def test_idle_sessions_leave_after_the_threshold_and_not_before(bench: Bench) -> None:
    bench.answer("a", prompt_of(1))
    bench.now += 0.99
    bench.engine.advance()
    assert bench.session("a").state is State.IDLE
    assert bench.engine.scheduler.seconds_to_deadline() == pytest.approx(0.01)
    bench.now += 0.02
    bench.reach("a", State.SWAPPED)
    assert bench.engine.store.memory.taken_bytes == 0


def test_a_prefetched_session_is_there_before_the_request(bench: Bench) -> None:
    prompt = prompt_of(1)
    first = bench.answer("a", prompt)
    bench.fall_asleep("a")
    bench.engine.prefetch("a")
    bench.reach("a", State.IDLE)
    second = bench.answer("a", [*prompt, *first.ids, 3])
    assert second.end is not None
    assert second.end.restore_s == 0.0
    assert bench.session("a").restores == 1


def test_a_request_in_the_middle_of_a_swap_out_is_answered_from_the_block_that_is_still_there(bench: Bench) -> None:
    hot = two_turns(bench, "hot", prompt_of(1))
    caught = two_turns(bench, "a", prompt_of(1), lambda: leave_and_hold(bench, "a"))
    assert [answer.tokens for answer in hot] == [answer.tokens for answer in caught]
    assert (bench.session("a").swaps, bench.session("a").kept) == (0, 1)


def leave_and_hold(bench: Bench, name: str) -> None:
    """Have a session leave; its move goes on until the bench's gate is opened, as a request does."""
    bench.gate.clear()
    bench.engine.wait_for_io(name)
    bench.engine.advance()
    assert bench.session(name).state is State.SWAPPING_OUT


def test_a_signal_to_compute_in_the_middle_of_a_swap_out_keeps_the_session(bench: Bench) -> None:
    bench.answer("a", prompt_of(1))
    leave_and_hold(bench, "a")
    bench.engine.prefetch("a")
    bench.gate.set()
    bench.reach("a", State.IDLE)
    assert bench.session("a").swaps == 0


def test_sessions_take_steps_in_turn(bench: Bench) -> None:
    heard = [bench.ask(name, prompt_of(seed), 6)[0] for seed, name in enumerate("abc")]
    spread = 0
    while not all(answer.is_over for answer in heard):
        bench.engine.advance()
        spread = max(spread, *(len(answer.tokens) for answer in heard)) - min(len(answer.tokens) for answer in heard)
        assert spread <= 1
    alone = [Bench().answer("x", prompt_of(seed), 6).ids for seed in range(3)]
    assert [answer.ids for answer in heard] == alone


def test_sessions_on_a_budget_for_one_take_their_turns_and_never_mix() -> None:
    bench = Bench(device_mib=2)
    prompts = {name: prompt_of(seed, LONG) for seed, name in enumerate("abcdef")}
    twins = {name: two_turns(Bench(), name, prompt) for name, prompt in prompts.items()}
    first = {name: bench.ask(name, prompt, logprobs=2)[0] for name, prompt in prompts.items()}
    bench.until(lambda: all(answer.is_over for answer in first.values()))
    second = {
        name: bench.ask(name, [*prompts[name], *first[name].ids, 7, 8], logprobs=2)[0] for name in reversed(prompts)
    }
    bench.until(lambda: all(answer.is_over for answer in second.values()))
    for name in prompts:
        assert [first[name].tokens, second[name].tokens] == [answer.tokens for answer in twins[name]]
    assert sum(bench.session(name).swaps for name in prompts) >= 5
    bench.engine.stop()


def test_a_session_that_computes_never_makes_room() -> None:
    bench = Bench(device_mib=2, idle_s=0.0)
    long, _ = bench.ask("long", prompt_of(1, LONG), 50)
    bench.until(lambda: len(long.tokens) > 3)
    short, _ = bench.ask("short", prompt_of(2, LONG), 2)
    while not short.is_over:
        bench.engine.advance()
        assert long.is_over or bench.session("long").state is State.ACTIVE
        assert bench.engine.store.memory.taken_bytes <= 2 * MIB
    assert len(long.tokens) == 50


def test_a_longer_turn_moves_the_session_to_a_larger_block_by_way_of_the_host_if_it_must() -> None:
    for device_mib, swaps in ((64, 0), (5, 1)):
        bench = Bench(device_mib=device_mib)
        prompt = prompt_of(1, LONG)
        twin = Bench().answer("a", [*prompt, *prompt_of(2, LONG)]).ids
        bench.answer("a", prompt)
        grown = bench.answer("a", [*prompt, *prompt_of(2, LONG)])
        assert grown.error is None
        assert grown.ids == twin
        assert bench.session("a").swaps == swaps
        bench.engine.stop()


def test_what_can_never_fit_is_refused_at_once(bench: Bench) -> None:
    heard = bench.answer("a", prompt_of(1), 100_000)
    assert isinstance(heard.error, KvCapacityError)
    with pytest.raises(UnknownSessionError):
        bench.session("a")


def test_with_a_full_pool_nobody_is_recomputed_or_mixed_up_but_refused() -> None:
    bench = Bench(device_mib=2, host_mib=0)
    first = bench.answer("a", prompt_of(1, LONG))
    assert isinstance(bench.answer("b", prompt_of(2, LONG)).error, KvCapacityError)
    second = bench.answer("a", [*prompt_of(1, LONG), *first.ids, 5])
    assert second.end is not None
    assert second.end.reused_tokens == LONG + 3
    bench.engine.stop()


def test_with_a_folder_what_does_not_fit_the_pool_sleeps_on_disk(tmp_path: Path) -> None:
    bench = Bench(host_mib=0, spill=tmp_path)
    hot = two_turns(Bench(), "a", prompt_of(1))
    slept = two_turns(bench, "a", prompt_of(1), lambda: bench.fall_asleep("a"))
    assert [answer.tokens for answer in hot] == [answer.tokens for answer in slept]
    bench.engine.close_session("a")
    assert not list(tmp_path.iterdir())
    bench.engine.stop()


def test_a_session_whose_bytes_changed_asleep_is_closed_and_gives_an_error_never_text(bench: Bench) -> None:
    prompt = prompt_of(1)
    first = bench.answer("a", prompt)
    bench.fall_asleep("a")
    parked = bench.session("a").parked
    assert parked is not None
    parked.pages[0][77] ^= 4
    second = bench.answer("a", [*prompt, *first.ids, 3])
    assert isinstance(second.error, KvDigestError)
    assert second.error.session_id == "a"
    assert second.tokens == []
    with pytest.raises(UnknownSessionError):
        bench.session("a")
    assert bench.engine.store.memory.taken_bytes == bench.engine.store.pool.used_bytes == 0


def test_a_cancelled_turn_ends_before_its_next_step_and_the_session_goes_on(bench: Bench) -> None:
    prompt = prompt_of(1)
    heard, turn = bench.ask("a", prompt, 50)
    bench.until(lambda: len(heard.tokens) == 3)
    bench.engine.cancel(turn)
    bench.until(lambda: heard.is_over)
    assert heard.end is not None
    assert heard.end.reason == "cancelled"
    assert bench.answer("a", [*prompt, *heard.ids, 1]).ids == Bench().answer("b", [*prompt, *heard.ids, 1]).ids


@pytest.mark.parametrize("state", ["waiting", "active", "leaving", "asleep"])
def test_a_session_may_be_closed_in_every_state_and_leaves_nothing(bench: Bench, state: str) -> None:
    heard, _ = bench.ask("a", prompt_of(1), 50 if state == "active" else 4)
    if state == "active":
        bench.until(lambda: len(heard.tokens) > 1)
    elif state != "waiting":
        bench.until(lambda: heard.is_over)
        leave_and_hold(bench, "a") if state == "leaving" else bench.fall_asleep("a")
    else:
        bench.engine._inbox.hear()
    bench.engine.close_session("a")
    bench.gate.set()
    bench.until(lambda: not bench.engine.scheduler.sessions)
    assert heard.is_over
    assert bench.engine.store.memory.taken_bytes == bench.engine.store.pool.used_bytes == 0


def test_a_second_request_and_one_session_too_many_are_refused_and_an_unused_session_is_closed() -> None:
    bench = Bench(max_sessions=1, ttl_s=60)
    running, _ = bench.ask("a", prompt_of(1), 30)
    bench.until(lambda: len(running.tokens) > 1)
    assert isinstance(bench.answer("a", prompt_of(1)).error, BusyError)
    assert isinstance(bench.answer("b", prompt_of(1)).error, BusyError)
    bench.until(lambda: running.is_over)
    bench.now += 61
    bench.until(lambda: not bench.engine.scheduler.sessions)
    bench.engine.stop()


def test_a_step_that_fails_is_its_own_turns_error_and_the_session_can_be_asked_again(bench: Bench) -> None:
    prompt = prompt_of(1)
    expected = Bench().answer("x", [*prompt, 3]).ids
    bench.answer("a", prompt)
    broken = bench.module.model.layers[2].register_forward_pre_hook(fail)
    assert isinstance(bench.answer("a", [*prompt, 3]).error, torch.OutOfMemoryError)
    broken.remove()
    assert bench.answer("a", [*prompt, 3]).ids == expected


def test_samples_depend_on_the_seed_alone(bench: Bench) -> None:
    one, same, other = (
        bench.answer(name, prompt_of(1), 12, temperature=1.0, top_p=0.9, seed=seed).ids
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == same != other


def test_a_state_that_does_not_follow_is_refused() -> None:
    with pytest.raises(TransitionError, match="'a': IDLE to SWAPPED; expected one of: ACTIVE, SWAPPING_OUT, CLOSED"):
        Session(id="a", idle_since_s=0.0).go(State.SWAPPED)


def test_in_its_own_thread_it_sleeps_until_something_happens_and_stops_with_turns_under_way() -> None:
    bench = Bench(idle_s=0.05)
    engine = AgentEngine(bench.module, bench.engine.store, idle_s=0.05)
    looks: list[int] = []
    engine._observer.look = lambda *args: looks.append(1)  # type: ignore[method-assign]
    engine.start()
    heard = Heard()
    engine.submit("a", TurnRequest(prompt=tuple(prompt_of(1)), max_tokens=4), heard)
    deadline = time.monotonic() + 10
    while engine.post(lambda: engine.scheduler.find("a").swaps if heard.is_over else 0).result() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = -1
    while len(looks) != before:  # no polling; what was asked last may be looked at behind its answer
        assert time.monotonic() < deadline
        before = len(looks)
        time.sleep(0.3)
    endless = Heard()
    engine.submit("b", TurnRequest(prompt=tuple(prompt_of(1)), max_tokens=7000), endless)
    time.sleep(0.1)
    engine.stop()
    assert isinstance(endless.error, BusyError)
