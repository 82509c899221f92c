"""What other servers honestly do otherwise accuses none of them: blocks, sizes, texts, tokens that rounding chose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any, cast

import pytest

from djinn_checks import AgentsParams, Status
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.criteria import judge_evidence
from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.crowd_criteria import judge_everyone
from djinn_checks.checks.agents.evidence import AgentsEvidence
from djinn_checks.checks.agents.identity_criteria import judge_sameness, judge_speaker
from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.pool.criteria import judge_pool
from djinn_checks.checks.agents.pool.run import PoolRun, PoolSleep
from djinn_checks.checks.agents.reply import Reply, Sources
from djinn_checks.checks.agents.scripts import AgentScript
from djinn_checks.checks.agents.sleeper import Sleep, answer_ids
from djinn_checks.errors import InstrumentError, WrongAdapterError
from djinn_checks.models.open import Model
from djinn_checks.outcome import Criterion
from tests.checks.agents.fake_vllm import Quiet, listening
from tests.checks.agents.made_evidence import make_evidence, make_one_sleep, make_run

BLOCK, KEPT, PROMPT = 16, 395, 400
"""Tokens: of a block, of a session when it goes idle that have KV, and of the prompt of its next turn."""


def said(ids: tuple[int, ...], sources: Sources | None = None, *, margin: float = 1.0, moved: float = 0.0) -> Reply:
    """Return an answer whose tokens are likelier than the next by a margin, all log-probabilities moved by so much."""
    return Reply(
        ids=ids, logprobs=(-0.5 + moved,) * len(ids), runners_up=(-0.5 + moved, -0.5 - margin) * len(ids),
        token_at_s=(1.0,), prompt_tokens=PROMPT, sources=sources,
    )  # fmt: skip


def pooled(slept: Reply, hot: Reply, cold: Reply, *, block: int | None = BLOCK) -> tuple[AgentsEvidence, PoolRun]:
    """Return the evidence of one sleep on a server with a pool."""
    first = said((1, 2), Sources(device=0, host=0, computed=PROMPT))
    sleep = Sleep(told_s=2.0, woken_s=3.0, tokens=KEPT + 1, asleep=None, after=None, last=first, reply=slept)
    run = make_run(first, sleeps=(sleep,), hot=(first, hot), again=(first, hot), cold=(cold,), histories=((0,), (0,)))
    pushed = PoolSleep(by="others' prompts", pressed_tokens=1, woken=Counts())
    pool = PoolRun(
        kind="vllm", version="0.26.0", missing={}, block_tokens=block, pool_tokens=9600, sleeps=(pushed,),
        counted=Counts(), left_s=0.0,
    )  # fmt: skip
    reference = replace(make_evidence().reference, nll_slept=(0.5, 0.5), nll_hot=(0.5, 0.5), repetition_slept=(0.0,),
                        repetition_hot=(0.0,))  # fmt: skip
    params = AgentsParams.create(adapter="vllm", agents=0, sleeps=1)
    return make_evidence(params=params, sleeper=run, pool=pool, reference=reference), pool


@pytest.mark.parametrize(
    ("again", "block", "kind", "status"),
    [(0, BLOCK, "sglang", Status.PASS), (11, BLOCK, "sglang", Status.PASS), (15, BLOCK, "sglang", Status.PASS),
         (16, BLOCK, "sglang", Status.INCONCLUSIVE), (16, 128, "sglang", Status.PASS),
         (255, BLOCK, "sglang", Status.INCONCLUSIVE), (256, BLOCK, "sglang", Status.FAIL),
         (KEPT, BLOCK, "sglang", Status.FAIL), (1, None, "sglang", Status.INCONCLUSIVE),
         (256, None, "sglang", Status.FAIL), (KEPT, None, "sglang", Status.FAIL), (17, BLOCK, "vllm", Status.PASS),
         (18, BLOCK, "vllm", Status.INCONCLUSIVE), (257, BLOCK, "vllm", Status.INCONCLUSIVE),
         (258, BLOCK, "vllm", Status.FAIL), (3, None, "vllm", Status.INCONCLUSIVE)],
)  # fmt: skip
def test_less_than_a_block_of_the_servers_own_size_may_be_computed_again_and_the_answer_of_one_that_leaves_it_out(
    again: int, block: int | None, kind: str, status: Status
) -> None:
    came = Sources(device=0, host=KEPT - again, computed=PROMPT - KEPT + again)
    hot = said((3, 4), Sources(device=KEPT, host=0, computed=PROMPT - KEPT))
    evidence, pool = pooled(said((3, 4), came), hot, hot, block=block)
    found = {row.name: row for row in judge_pool(evidence, replace(pool, kind=kind))}
    assert found["prefill_counted"].status is found["kv_from_host"].status is status
    assert found["prefill_counted"].observed == (None if status is Status.INCONCLUSIVE else again)
    asked = "vllm:cache_config_info{block_size}" if kind == "vllm" else "sglang:cache_config_info{page_size}"
    remedy = "larger chunks than the device's blocks" if block else asked
    for name in ("prefill_counted", "kv_from_host"):
        assert (remedy in found[name].reason) is (status is Status.INCONCLUSIVE)
        assert ("give host_block_tokens" in found[name].reason.lower()) is (status is Status.INCONCLUSIVE)
    assert ("the last answer's 2 may be computed again" in found["kv_from_host"].evidence) is (kind == "vllm")


def computed_again(again: int) -> tuple[AgentsEvidence, PoolRun]:
    """Return evidence of a session of which so many tokens were computed again; its log-probabilities are as far from
    the hot twin's as those of the one that was computed anew."""
    came = Sources(device=0, host=KEPT - again, computed=PROMPT - KEPT + again)
    hot = said((3, 4), Sources(device=KEPT, host=0, computed=PROMPT - KEPT))
    return pooled(said((3, 4), came, moved=0.1), hot, said((3, 4), moved=0.1))


@pytest.mark.parametrize(
    ("again", "chunk", "status"),
    [(63, 64, Status.PASS), (64, 64, Status.FAIL), (255, 256, Status.PASS), (16, 8, Status.FAIL),
     (KEPT, 512, Status.INCONCLUSIVE), (KEPT, 256, Status.FAIL)],
)  # fmt: skip
def test_less_than_a_chunk_that_a_host_is_said_to_keep_may_be_computed_again(
    again: int, chunk: int, status: Status
) -> None:
    evidence, pool = computed_again(again)
    params = AgentsParams.create(adapter="sglang", agents=0, sleeps=1, host_block_tokens=chunk)
    found = {row.name: row for row in judge_pool(replace(evidence, params=params), replace(pool, kind="sglang"))}
    assert found["prefill_counted"].status is found["kv_from_host"].status is status
    assert f"its host keeps {chunk} together" in found["kv_from_host"].evidence
    assert ("give more prompt_tokens" in found["kv_from_host"].reason) is (status is Status.INCONCLUSIVE)
    if status is Status.PASS:
        assert f"the host keeps chunks of {chunk} tokens" in found["rounding_is_kept"].reason


@pytest.mark.parametrize(
    ("short", "twin_short", "status"),
    [(5, 5, Status.PASS), (5, None, Status.INCONCLUSIVE), (320, 5, Status.FAIL), (1, 0, Status.PASS)],
)
def test_what_a_retokenized_history_does_not_continue_is_not_held_against_a_server_that_gives_no_ids(
    short: int, twin_short: int | None, status: Status
) -> None:
    came = Sources(device=0, host=KEPT - short, computed=PROMPT - KEPT + short)
    kept = None if twin_short is None else KEPT - twin_short
    hot = said((), Sources(device=kept, host=0, computed=PROMPT - (kept or 0)))
    evidence, pool = pooled(said((), came), hot, hot, block=2)
    (sleep,) = evidence.sleeper.sleeps
    silent = replace(evidence.sleeper, sleeps=(replace(sleep, last=replace(sleep.last, ids=())),))
    found = {row.name: row for row in judge_pool(replace(evidence, sleeper=silent), replace(pool, kind="sglang"))}
    assert found["prefill_counted"].status is found["kv_from_host"].status is status
    assert ("no token ids" in found["kv_from_host"].reason) is (status is Status.INCONCLUSIVE)


def test_a_twin_that_was_not_on_the_device_either_leaves_open_what_the_host_gives() -> None:
    came = Sources(device=0, host=16, computed=PROMPT - 16)
    away = said((3, 4), Sources(device=0, host=0, computed=PROMPT))
    evidence, pool = pooled(said((3, 4), came), away, away)
    run = replace(evidence.sleeper, histories=((0,) * KEPT, (0,) * PROMPT))
    found = {row.name: row for row in judge_pool(replace(evidence, sleeper=run), replace(pool, kind="sglang"))}
    for name in ("kv_from_host", "prefill_counted", "twins_are_twins"):
        assert found[name].status is Status.INCONCLUSIVE
        assert "engine" in found[name].reason
        assert "share what is cached" not in found[name].reason


@pytest.mark.parametrize(
    ("engines", "device", "by", "status"),
    [(1, 16, "others' prompts", Status.FAIL), (2, 16, "others' prompts", Status.INCONCLUSIVE),
     (2, 0, "others' prompts", Status.PASS), (2, 16, "the server's route", Status.FAIL)],
)  # fmt: skip
def test_others_prompts_may_have_gone_to_another_engine_and_a_route_empties_them_all(
    engines: int, device: int, by: str, status: Status
) -> None:
    came = Sources(device=device, host=KEPT - device, computed=PROMPT - KEPT)
    hot = said((3, 4), Sources(device=KEPT, host=0, computed=PROMPT - KEPT))
    evidence, pool = pooled(said((3, 4), came), hot, hot)
    pushed = PoolSleep(by=by, pressed_tokens=0 if "route" in by else 9000, woken=Counts())
    found = {row.name: row for row in judge_pool(evidence, replace(pool, engines=engines, sleeps=(pushed,)))}
    assert found["kv_left_device"].status is status
    assert ("the server has 2 engines" in found["kv_left_device"].reason) is (status is Status.INCONCLUSIVE)


def rows(slept: Reply, hot: Reply, cold: Reply) -> dict[str, Criterion]:
    return {row.name: row for row in judge_sameness(pooled(slept, hot, cold)[0])}


@pytest.mark.parametrize(
    ("margin", "status"), [(0.01, Status.INCONCLUSIVE), (0.3, Status.FAIL)], ids=["nearly as likely", "not at all"]
)
def test_another_token_that_rounding_may_have_chosen_leaves_it_open_and_any_other_fails(
    margin: float, status: Status
) -> None:
    came, kept = Sources(device=0, host=384, computed=16), Sources(device=KEPT, host=0, computed=5)
    hot = said((3, 4), kept, margin=margin)
    found = rows(replace(said((3, 9), came), logprobs=(-0.5, -0.5)), hot, said((3, 4), kept, margin=margin, moved=0.01))
    assert found["text_equals_twin"].status is status
    is_open = status is Status.INCONCLUSIVE
    assert ("nearly as likely" in found["text_equals_twin"].reason) is is_open
    assert (found["logprobs_equal_twin"].status is Status.INCONCLUSIVE) is is_open


@pytest.mark.parametrize(
    ("kind", "again", "status"),
    [("vllm", BLOCK, Status.INCONCLUSIVE), ("vllm", 0, Status.FAIL), ("sglang", 0, Status.FAIL),
     ("sglang", BLOCK, Status.INCONCLUSIVE), ("sglang", 256, Status.FAIL)],
)  # fmt: skip
def test_answers_that_a_server_may_leave_out_round_as_computed_anew_and_accuse_nobody(
    kind: str, again: int, status: Status
) -> None:
    evidence, pool = computed_again(again)
    found = {row.name: row for row in judge_pool(evidence, replace(pool, kind=kind))}
    assert found["rounding_is_kept"].status is status


def test_a_server_of_sessions_is_excused_by_no_rounding() -> None:
    hot = said((3, 4), margin=0.001)
    evidence, _ = pooled(said((3, 9)), hot, said((3, 4), moved=0.1))
    own = replace(evidence, pool=None, params=AgentsParams.create(agents=0, sleeps=1))
    assert judge_sameness(own)[0].status is Status.FAIL


@pytest.mark.parametrize(("adapter", "status"), [("none", Status.PASS), ("signal", Status.FAIL)])
def test_in_a_crowd_a_near_tie_is_rounding_where_a_server_may_compute_otherwise(adapter: str, status: Status) -> None:
    twin, other = said((3, 4), margin=0.01), said((3, 9), margin=0.01)
    script = AgentScript(prompt=(1,), follow_ups=((1,),), code_word="", code_ids=(700,))
    sure = [(said(ids), said(ids)) for ids in ((5, 6), (7, 8))]
    crowd = CrowdRun(
        scripts=(script,) * 3, replies=((twin, other), *sure), twins=((twin, twin), *sure), errors=(), samples=(),
        started_s=0.0, ended_s=1.0,
    )  # fmt: skip
    params = AgentsParams.create(agents=3, turns=2, adapter=adapter)
    found = {row.name: row for row in judge_everyone(make_evidence(params=params, crowd=crowd), crowd)}
    assert found["crowd_texts_equal_twins"].status is status


@pytest.mark.parametrize(
    ("tokens", "status"), [((2, 2), Status.PASS), ((2, 1), Status.INCONCLUSIVE)], ids=["as many", "fewer in its text"]
)
def test_a_text_of_other_tokens_than_were_said_tells_nothing_of_the_weights(
    tokens: tuple[int, int], status: Status
) -> None:
    hot = said((3, 4))
    evidence, _ = pooled(hot, hot, hot)
    row = judge_speaker(replace(evidence, reference=replace(evidence.reference, tokens_slept=tokens)))
    assert row.status is status
    assert ("not as many tokens" in row.reason) is (status is Status.INCONCLUSIVE)


def spoken(*, logprob: float, nll: float, prompt_tokens: int | None) -> Criterion:
    """Judge a server by log-probabilities of its words, where the resident model's are others."""
    reply = replace(said((3, 4)), logprobs=(logprob, logprob), prompt_tokens=prompt_tokens)
    evidence, _ = pooled(reply, reply, reply)
    run = replace(evidence.sleeper, first=reply, histories=((0,) * PROMPT,) * 2)
    reference = replace(evidence.reference, nll_slept=(nll, nll), tokens_slept=(2, 2))
    return judge_speaker(replace(evidence, sleeper=run, reference=reference))


@pytest.mark.parametrize(
    ("logprob", "nll", "counted", "status", "told"),
    [
        (-0.5, 0.6, PROMPT, Status.FAIL, "other weights"),
        (-0.5, 0.6, None, Status.FAIL, "other weights"),
        (-0.5, 0.6, PROMPT + 1, Status.INCONCLUSIVE, "counts 401 prompt tokens, and the history has 400"),
        (-0.5, 0.5, PROMPT + 1, Status.PASS, ""),
        (0.0, 5.8, PROMPT, Status.INCONCLUSIVE, "after the temperature.*raw_logprobs"),
        (0.0, 0.01, PROMPT, Status.PASS, ""),
    ],
)
def test_other_weights_are_told_from_a_prompt_with_a_token_more_and_from_numbers_that_say_nothing(
    logprob: float, nll: float, counted: int | None, status: Status, told: str
) -> None:
    row = spoken(logprob=logprob, nll=nll, prompt_tokens=counted)
    assert row.status is status
    assert re.search(told, row.reason)


def test_an_answer_without_ids_and_text_counts_as_no_tokens_of_nobody() -> None:
    with pytest.raises(InstrumentError, match="neither token ids nor text"):
        answer_ids(cast(Model, None), Reply(token_at_s=(1.0,)))


def test_what_a_sessions_second_sleep_does_is_said_to_be_untried_with_one() -> None:
    found = {row.name: row for row in judge_evidence(make_one_sleep_with_replies())}
    assert "second sleep does was not tried" in found["survives_sleep"].evidence


def make_one_sleep_with_replies() -> AgentsEvidence:
    made = make_one_sleep(lambda at: 0, agents=0, sleeps=1)
    reference = replace(made.reference, nll_slept=(0.5, 0.5), nll_hot=(0.5, 0.5), repetition_slept=(0.0,),
                        repetition_hot=(0.0,))  # fmt: skip
    return replace(made, reference=reference, sleeper=replace(made.sleeper, cold=made.sleeper.hot[1:]))


def test_the_memory_of_a_proxy_is_not_judged_as_the_servers() -> None:
    why = "process 7, which listens, passes requests on to 127.0.0.1:9: its memory is not the server's; give server_pid"
    proxied = replace(make_one_sleep_with_replies(), memory=None, memory_reason=why)
    found = {row.name: row for row in judge_evidence(proxied)}
    for name in ("kv_left_device", "kv_returned", "kv_left_soon", "closing_frees"):
        assert found[name].status is Status.INCONCLUSIVE
        assert found[name].reason == why


WRITTEN = 12_256 * 100
"""What a slot of 100 tokens takes in q8_0."""


@contextlib.contextmanager
def serve_slots(written: int = WRITTEN, **timings: float) -> Iterator[str]:
    told = {
        "save": {"n_written": written, "timings": timings},
        "restore": {"n_read": WRITTEN, "timings": {"restore_ms": 2.0}},
        "erase": {},
    }

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, '[{"id": 0}]')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            self.answer(200, json.dumps(told[self.path.rpartition("=")[2]]))

    with listening(Handler) as address:
        yield address


def test_a_slots_size_is_what_llama_server_writes_of_it() -> None:
    async def ask(address: str) -> Any:
        async with contextlib.aclosing(connect("slot", address)) as client:
            await client.sleep("a")
            asleep = await client.record("a")
            await client.wake("a")
            return asleep, await client.record("a")

    with serve_slots(save_ms=6.0) as address:
        asleep, after = asyncio.run(ask(address))
    assert asleep.kept_bytes == asleep.swapped_bytes == after.restored_bytes == WRITTEN
    assert (asleep.swap_s, after.restore_s) == (0.006, 0.002)
    with serve_slots() as address:
        assert asyncio.run(ask(address))[0].swap_s is None
    with serve_slots(0) as address, pytest.raises(WrongAdapterError, match="got n_written 0; is the folder"):
        asyncio.run(ask(address))


def test_a_session_has_another_salt_in_every_run_and_after_it_was_closed() -> None:
    async def salts() -> list[object]:
        found: list[object] = []
        for _ in range(2):
            async with contextlib.aclosing(connect("vllm", "http://127.0.0.1:9")) as client:
                for _ in range(2):
                    found += [client._session_fields("hot")["cache_salt"] for _ in range(2)]
                    await client.close("hot")
        return found

    found = asyncio.run(salts())
    assert len(set(found)) == len(found) / 2 == 4
    assert found[::2] == found[1::2]
