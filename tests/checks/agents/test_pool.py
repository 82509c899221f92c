"""A server that keeps all KV in one pool is judged by the same four proofs, and what it hides is found."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks import AgentsParams, Outcome, Status, check_agents
from djinn_checks.checks.agents import client as agents_client
from djinn_checks.checks.agents.answer_distance import turn_distance
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.criteria import judge_evidence
from djinn_checks.checks.agents.link import LinkEvidence
from djinn_checks.checks.agents.pool import client as pool_client
from djinn_checks.checks.agents.pool import criteria as pool_criteria
from djinn_checks.checks.agents.pool import sleeper as pool_sleeper
from djinn_checks.checks.agents.pool.counts import Counts
from djinn_checks.checks.agents.pool.run import BorderTrial, PoolRun, PoolSleep
from djinn_checks.checks.agents.pool.speed import judge_pool_moves
from djinn_checks.checks.agents.recompute_criteria import judge_recomputation
from djinn_checks.checks.agents.reference import ask_reference
from djinn_checks.checks.agents.reply import Reply, Sources
from djinn_checks.checks.agents.scripts import end_on_block, write_script
from djinn_checks.checks.agents.sleeper import Sleep, SleeperRun
from djinn_checks.errors import OutcomeError
from djinn_checks.instruments.ceiling import Ceiling
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Criterion, settle
from djinn_checks.report.agents.plots import plot_crowd
from tests.checks.agents.fake_vllm import Defects, PagedModel, serve_mixer, serve_vllm
from tests.checks.agents.made_evidence import make_evidence, make_run

CPU = torch.device("cpu")
POOL_BLOCKS = 16
SHAPE = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 512,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "device": "cpu", "adapter": "vllm", "prompt_tokens": 40, "new_tokens": 4, "sleep_s": 1.0, "sleeps": 2,
    "idle_s": 0.5, "agents": 6, "agent_prompt_tokens": 40, "agent_new_tokens": 4, "arrival_rate": 20.0,
    "think_s": [0.05, 0.1], "burst": 2, "turns": 3, "shared_share": 0.5, "disturbed_share": 0.4,
}  # fmt: skip


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps(SHAPE))
    return f"random:{path}"


@pytest.fixture(autouse=True, scope="module")
def counted_at_once() -> Iterator[None]:
    """The server in this process has counted a turn before it has answered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_client, "_REST_S", 0.0)
        patch.setattr(pool_client, "_POLL_S", 0.001)
        patch.setattr(pool_sleeper, "SETTLE_S", 0.01)
        yield


async def run(
    model: Model, address: str, pressure: int = 0, tokens: int = 40, turns: int = 3
) -> tuple[SleeperRun, PoolRun]:
    scripts = [write_script(model, number=number, tokens=tokens, turns=turns, seed=0) for number in (0, 1)]
    async with contextlib.aclosing(connect("vllm", address)) as client:
        await client.find_routes()
        return await pool_sleeper.run_pool_sleeper(
            client, model, *scripts, new_tokens=4, sleep_s=0.01, pressure_tokens=pressure, seed=0
        )


def judge(spec: str, address: str, **asked: int) -> dict[str, Criterion]:
    """Return the rows about the sleeper on a server that runs, by name."""
    model = open_model(spec, dtype=torch.float32, device=CPU)
    sleeper, pool = asyncio.run(run(model, address, **asked))
    told = {"model": spec, "server_address": address, "agents": 0, "sleeps": len(sleeper.sleeps)}
    params = AgentsParams.create(**(SMALL | told))
    evidence = make_evidence(
        params=params, sleeper=sleeper, pool=pool, reference=ask_reference(model, CPU, sleeper, 4), decode=model.decode
    )
    return {row.name: row for row in judge_evidence(evidence)}


def judge_with(spec: str, **defects: Any) -> dict[str, Criterion]:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS, defects=Defects(**defects)) as (address, _):
        return judge(spec, address)


def failed(rows: dict[str, Criterion]) -> set[str]:
    return {name for name, row in rows.items() if row.status is Status.FAIL}


@pytest.fixture(scope="module")
def passed(spec: str) -> Outcome:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS) as (address, _):
        return check_agents(AgentsParams.create(**(SMALL | {"model": spec, "server_address": address})))


def test_a_server_whose_blocks_really_come_back_from_the_host_passes_in_every_row(passed: Outcome) -> None:
    undecided = {row.name: row.reason for row in passed.criteria if row.status not in (Status.PASS, Status.SKIP)}
    assert undecided.keys() <= {"woke_at_once", "offered_load"}, undecided  # of these a busy machine decides
    for name in ("kv_left_device", "kv_from_host", "loads_counted", "prefill_counted", "logprobs_equal_twin"):
        assert passed.criterion(name).status is Status.PASS
    assert "by others' prompts" in passed.criterion("kv_left_device").evidence
    assert "by the server's route" in passed.criterion("kv_left_device").evidence
    assert passed.criterion("logprobs_equal_twin").observed == 0.0
    assert passed.measurements["server_version"] == "0.26.0"
    assert passed.status is not Status.PASS or "came back by the server's own account" in passed.summary
    assert Outcome.from_dict(json.loads(json.dumps(passed.to_dict()))).to_dict() == passed.to_dict()


def test_a_crowd_on_a_pool_was_under_all_the_pressure_that_was_asked_for(passed: Outcome) -> None:
    told = passed.criterion("crowd_answered").evidence
    assert "tried: several pauses, arrivals of 2 at once, 3 prompts that begin alike" in told
    assert "turns asked by two clients" in told
    assert "requests that were cancelled" in told
    assert "not tried" not in told
    disturbed = passed.criterion("crowd_logprobs_equal_twins").evidence
    assert "disturbed by a second client" in disturbed


def test_a_pools_crowd_is_drawn_by_how_far_each_answer_is_from_its_twins(passed: Outcome) -> None:
    figure, told = plot_crowd(passed)
    assert figure is not None
    points = [part for part in figure.axes[0].collections if part.get_label() in ("first turns", "after a pause")]
    assert [len(part.get_offsets()) for part in points] == [6, 12]
    assert "prompt tokens came from outside the device" in told


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("served_was_computed", {"observed": 1, "status": "FAIL", "reason": "off", "required": False}),
        ("crowd_came_back", {"required": False}),
    ],
)
def test_a_row_of_a_pool_that_decides_is_not_left_to_the_reader(
    passed: Outcome, name: str, change: dict[str, Any]
) -> None:
    data = json.loads(json.dumps(passed.to_dict()))
    next(row for row in data["criteria"] if row["name"] == name).update(change)
    with pytest.raises(OutcomeError, match=f"row {name} is not required, and agents never leaves it to the reader"):
        Outcome.from_dict(data)


@pytest.mark.parametrize("name", ["served_was_computed", "crowd_came_back", "kv_in_on_link"])
def test_a_row_of_a_pool_is_not_left_out(passed: Outcome, name: str) -> None:
    data = json.loads(json.dumps(passed.to_dict()))
    data["criteria"] = [row for row in data["criteria"] if row["name"] != name]
    with pytest.raises(OutcomeError, match=f"row {name} is missing, which agents always has"):
        Outcome.from_dict(data)


def test_a_version_that_a_server_does_not_say_is_unknown(spec: str) -> None:
    async def ask(address: str, adapter: str) -> str | None:
        async with contextlib.aclosing(connect(adapter, address)) as client:
            assert isinstance(client, pool_client.PoolClient)
            return await client.version()

    with serve_vllm(spec, pool_blocks=POOL_BLOCKS) as (address, _):
        assert [asyncio.run(ask(address, adapter)) for adapter in ("vllm", "sglang")] == ["0.26.0", None]


def test_with_offloading_off_one_row_fails_and_says_so(spec: str) -> None:
    rows = judge_with(spec, offloads=False)
    assert failed(rows) == {"kv_from_host"}
    assert "is offloading on?" in rows["kv_from_host"].reason
    assert rows["prefill_counted"].status is Status.INCONCLUSIVE
    assert "'kv_from_host'" in rows["prefill_counted"].reason


def test_kv_that_is_computed_again_in_secret_has_a_prefills_rounding(spec: str) -> None:
    rows = judge_with(spec, recomputes_secretly=True)
    assert rows["rounding_is_kept"].observed == "recomputed"
    assert "rounding_is_kept" in failed(rows)


def test_answers_that_are_left_out_and_computed_anew_are_no_defect(spec: str) -> None:
    rows = judge_with(spec, leaves_out_answers=True)
    assert not failed(rows)
    assert "may be computed again" in rows["kv_from_host"].evidence
    assert rows["rounding_is_kept"].evidence.endswith("the former computed its last answer anew")
    rounding, first_token = rows["rounding_is_kept"], rows["first_token_is_kept"]
    if first_token.status is Status.INCONCLUSIVE:  # unless a hiccup of the machine set the twins far apart
        assert rounding.status is Status.INCONCLUSIVE
        assert re.search("neither the link nor the time|could not be told", rounding.reason)  # by the CPU


@pytest.mark.parametrize("defects", [{"recomputes_secretly": True}, {"recomputes_in_parts": True}])
def test_where_answers_are_left_out_a_session_that_is_computed_anew_in_secret_does_not_pass(
    spec: str, defects: dict[str, bool]
) -> None:
    rows = judge_with(spec, leaves_out_answers=True, **defects)
    assert rows["rounding_is_kept"].status is Status.INCONCLUSIVE
    assert settle(rows.values()) in (Status.INCONCLUSIVE, Status.FAIL)


def test_where_answers_are_left_out_rounding_and_the_link_tell_that_the_rest_was_kept(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS, defects=Defects(leaves_out_answers=True)) as (address, _):
        model = open_model(spec, dtype=torch.float32, device=CPU)
        sleeper, pool = asyncio.run(run(model, address))
    evidence = make_evidence(sleeper=sleeper, pool=pool)
    rounding, first_token = judge_recomputation(evidence, again="it leaves them out", is_counted=True)
    is_blind = "could not be told from each other" in rounding.reason  # by how this processor rounds
    assert (rounding.status, rounding.observed) == ((Status.INCONCLUSIVE, None) if is_blind else (Status.PASS, "kept"))
    assert is_blind or not (first_token.required and first_token.status is Status.INCONCLUSIVE)


def test_a_block_that_a_token_fills_whose_kv_nobody_computed_is_found(spec: str) -> None:
    rows = judge_with(spec, keeps_last_token=True)
    assert failed(rows) >= {"served_was_computed"}
    assert rows["served_was_computed"].observed == 1
    assert rows["served_was_computed"].required
    assert "is not fed back" in rows["served_was_computed"].reason
    assert rows["kv_from_host"].status is rows["prefill_counted"].status is Status.PASS


@pytest.mark.parametrize(
    ("at_border", "inside", "status"),
    [
        ((0.3, 0.4, 0.2), (0.05, 0.03, 0.08), Status.FAIL),
        ((0.05, 0.1, 0.06), (0.05, 0.03, 0.08), Status.PASS),
        ((0.05, 0.4, 0.4), (0.05, 0.03, 0.08), Status.INCONCLUSIVE),
        ((0.3, None, None), (0.05, 0.03, 0.08), Status.INCONCLUSIVE),
        ((0.3, 0.4, 0.2), (0.05, None, 0.08), Status.INCONCLUSIVE),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), Status.PASS),
        ((), (), Status.INCONCLUSIVE),
    ],
)
def test_all_answers_that_end_with_a_block_decide_and_none_alone(
    spec: str, at_border: tuple[float | None, ...], inside: tuple[float | None, ...], status: Status
) -> None:
    woken = Reply(prompt_tokens=60, sources=Sources(device=0, host=48, computed=12))
    slept = Sleep(told_s=0.0, woken_s=1.0, tokens=48, asleep=None, after=None, last=Reply(), reply=woken)
    sleeper = make_run(Reply(), sleeps=(slept,))
    pool = PoolRun(
        kind="vllm", version="0.26.0", missing={}, block_tokens=8, pool_tokens=128, sleeps=(), counted=Counts(),
        left_s=0.0, border=BorderTrial(at_border=at_border, inside=inside),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool_criteria, "strangers", lambda *_: 0)
        row = pool_criteria._fed_back(make_evidence(sleeper=sleeper, pool=pool), pool)
    assert row.status is status
    assert row.required


@pytest.mark.parametrize("sleeps", [1, 2])
def test_a_server_that_computed_an_answers_last_token_too_may_serve_it(spec: str, sleeps: int) -> None:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS, defects=Defects(computes_last_token=True)) as (address, _):
        rows = judge(spec, address, turns=sleeps + 1)
    assert not {name for name in failed(rows) if rows[name].required}
    assert rows["served_was_computed"].status is Status.PASS
    assert "1 more came than was fed back" in rows["served_was_computed"].evidence


def test_where_no_answer_ends_with_a_block_nothing_is_said_of_its_last_token(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS, defects=Defects(keeps_last_token=True)) as (address, _):
        rows = judge(spec, address, tokens=34)
    assert rows["served_was_computed"].status is Status.INCONCLUSIVE
    assert "no answer ended where a block does" in rows["served_was_computed"].reason


def test_a_crowd_sees_a_token_whose_kv_nobody_computed(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS, defects=Defects(keeps_last_token=True)) as (address, _):
        outcome = check_agents(AgentsParams.create(**(SMALL | {"model": spec, "server_address": address})))
    assert outcome.status is Status.FAIL
    assert outcome.criterion("crowd_logprobs_equal_twins").status is Status.FAIL


def test_blocks_of_another_session_are_not_the_twins(spec: str) -> None:
    rows = judge_with(spec, crosses_once_in=2)
    assert "logprobs_equal_twin" in failed(rows)
    assert rows["kv_from_host"].status is rows["prefill_counted"].status is Status.PASS


def test_a_cache_that_all_sessions_share_is_emptied_before_each_of_them(spec: str) -> None:
    rows = judge_with(spec, salts=False)
    assert rows["twins_are_twins"].status is rows["kv_from_host"].status is Status.PASS
    assert not failed(rows)


def test_one_that_nobody_can_empty_leaves_nothing_to_compare_with(spec: str) -> None:
    rows = judge_with(spec, salts=False, routes=False)
    assert rows["twins_are_twins"].status is Status.INCONCLUSIVE
    assert "share what is cached" in rows["twins_are_twins"].reason
    assert not {name for name in failed(rows) if rows[name].required}
    assert rows["served_was_computed"].status is Status.INCONCLUSIVE


def test_an_answer_of_another_session_fails_through_a_proxy(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=POOL_BLOCKS) as (upstream, _), serve_mixer(upstream, once_in=8) as address:
        rows = judge(spec, address)
    assert "text_equals_twin" in failed(rows)


def test_a_metric_that_a_version_lacks_is_named_with_it(spec: str) -> None:
    rows = judge_with(spec, unnamed=("kv_offload_load_bytes_total",))
    assert rows["loads_counted"].status is Status.INCONCLUSIVE
    assert rows["loads_counted"].reason == ("vllm 0.26.0 does not count load_bytes (vllm:kv_offload_load_bytes_total)")
    assert not failed(rows)


def test_a_pool_that_nothing_empties_shows_nothing(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=10**6, defects=Defects(routes=False)) as (address, _):
        rows = judge(spec, address)
    assert rows["kv_left_device"].status is Status.INCONCLUSIVE
    assert "VLLM_SERVER_DEV_MODE=1" in rows["kv_left_device"].reason


@pytest.mark.parametrize("stays", [False, True])
def test_blocks_of_a_cancelled_request_that_stay_are_found_by_who_asks_again(spec: str, stays: bool) -> None:
    async def ask(address: str, paged: PagedModel) -> float | None:
        model = open_model(spec, dtype=torch.float32, device=CPU)
        prompt = write_script(model, number=0, tokens=40, turns=1, seed=0).prompt
        async with contextlib.aclosing(connect("vllm", address)) as client:
            first = await client.turn("a", prompt, 30)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.turn("a", prompt, 30), 0.05)
            while paged.lock.locked():
                await asyncio.sleep(0.01)
            return turn_distance(await client.turn("a", prompt, 30), first)

    defects = Defects(cancelled_stay=stays, slow_s=0.01)
    with serve_vllm(spec, pool_blocks=10**6, defects=defects) as (address, paged):
        nats = asyncio.run(ask(address, paged))
    assert nats is not None
    assert (nats > 1e-4) is stays  # what other parts of a prompt round is a thousandth of that in float32


def ceiling(direction: str) -> Ceiling:
    return Ceiling(
        kind="pcie", direction=direction, pinned=True, nbytes=1, bytes_per_s=50e9, spread=0.0, samples_s=(),
        verified=True, start_s=0.0, end_s=1.0, copied_bytes=1,
    )  # fmt: skip


def test_a_pools_speed_is_told_over_the_links_and_decides_nothing() -> None:
    moved = Counts(load_bytes=40e9, load_s=1.0, store_bytes=45e9, store_s=1.0)
    pushed = PoolSleep(by="others' prompts", pressed_tokens=1, woken=moved)
    pool = PoolRun(
        kind="vllm", version="0.26.0", missing={}, block_tokens=16, pool_tokens=9600, sleeps=(pushed,), counted=moved,
        left_s=0.0,
    )  # fmt: skip
    link = LinkEvidence(ceilings={"in": ceiling("h2d"), "out": ceiling("d2h")}, series=None, reason="no counters")
    stored, restored = judge_pool_moves(make_evidence(device=torch.device("cuda"), link=link), pool)
    assert (stored.observed, restored.observed) == (pytest.approx(0.9), pytest.approx(0.8))
    assert not stored.required
    assert not restored.required
    nothing = judge_pool_moves(make_evidence(device=torch.device("cuda"), link=link), replace(pool, counted=Counts()))
    assert nothing[0].status is Status.INCONCLUSIVE


def judge_leaving(spec: str, **defects: Any) -> dict[str, Criterion]:
    """Return the rows of a server that is no worse for what it does otherwise, but for what a busy machine decides."""
    rows = judge_with(spec, **defects)
    assert not {name for name in failed(rows) if rows[name].required}
    return rows


def test_a_host_that_keeps_larger_chunks_than_the_devices_blocks_is_asked_for_their_size(spec: str) -> None:
    rows = judge_leaving(spec, chunk_blocks=5)
    for name in ("kv_from_host", "prefill_counted"):
        assert rows[name].status is Status.INCONCLUSIVE
        assert "give host_block_tokens" in rows[name].reason.lower()


def test_sources_that_are_counted_later_than_their_prompt_are_waited_for(spec: str) -> None:
    rows = judge_leaving(spec, lag_s=0.2)
    for name in ("twins_are_twins", "kv_left_device", "kv_from_host", "prefill_counted", "loads_counted"):
        assert rows[name].status is Status.PASS


def test_sources_that_are_never_counted_are_unknown(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_client, "_SETTLE_S", 0.05)
    rows = judge_leaving(spec, lag_s=1000.0)
    for name in ("twins_are_twins", "kv_left_device", "kv_from_host", "prefill_counted"):
        assert rows[name].status is Status.INCONCLUSIVE
        assert "do its counters lag by seconds" in rows[name].reason


def test_a_route_that_is_refused_is_as_one_that_is_not_there(spec: str) -> None:
    rows = judge_leaving(spec, is_closed=True)
    assert rows["kv_left_device"].status is rows["survives_sleep"].status is Status.PASS
    assert "route" not in rows["kv_left_device"].evidence


def test_others_that_are_refused_are_no_loss_of_the_agents(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents_client, "TURN_TRIES", 2)
    rows = judge_leaving(spec, refuses_others=True)
    assert rows["survives_sleep"].status is Status.PASS
    assert rows["kv_left_device"].status is Status.INCONCLUSIVE
    assert "too many requests" in rows["kv_left_device"].reason


@pytest.mark.parametrize("broken", [range(20, 22), range(20, 10**9)], ids=["for a moment", "for good"])
def test_metrics_that_are_refused_are_asked_for_again_and_then_missing(
    spec: str, broken: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_client, "_READ_S", 0.1)
    monkeypatch.setattr(pool_client, "_READ_PAUSE_S", 0.02)
    rows = judge_leaving(spec, broken_scrapes=broken)
    assert rows["survives_sleep"].status is Status.PASS
    is_back = len(broken) < 100
    for name in ("kv_left_device", "kv_from_host", "prefill_counted"):
        assert rows[name].status is (Status.PASS if is_back else Status.INCONCLUSIVE)
        assert ("could not be read" in rows[name].reason) is not is_back


def test_pressure_that_does_not_reach_the_session_leaves_it_there_and_that_is_one_fail(spec: str) -> None:
    with serve_vllm(spec, pool_blocks=10**6, defects=Defects(routes=False)) as (address, _):
        rows = judge(spec, address, pressure=80)
    assert failed(rows) == {"kv_left_device"}


@given(st.integers(1, 400), st.integers(1, 200), st.integers(1, 300), st.booleans())
def test_a_prompt_is_cut_by_less_than_a_block_and_never_to_less_than_one(
    tokens: int, answer: int, block: int, shares: bool
) -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=CPU)
    script = write_script(model, number=0, tokens=tokens, turns=2, seed=0, shares=shares)
    cut = end_on_block(script, answer, block)
    if cut != script:
        assert (len(cut.prompt) + answer) % block == 0
        assert 0 < len(script.prompt) - len(cut.prompt) < block <= len(cut.prompt)
        assert len(cut.prompt) > script.shared_tokens
