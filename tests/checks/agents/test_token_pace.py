"""A server's decode is timed against `generate()` in turns: a slow one shows, and no rounds are no ratio."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing

import pytest
import torch

from djinn_checks.checks.agents.client import AgentClient
from djinn_checks.checks.agents.connect import connect
from djinn_checks.checks.agents.reply import Reply
from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.checks.agents.speed_criteria import judge_decode
from djinn_checks.checks.agents.token_pace import TokenPace, measure_token_pace
from djinn_checks.errors import InstrumentError
from djinn_checks.models.open import Model, open_model
from djinn_checks.outcome import Criterion, Status
from tests.checks.agents.made_evidence import make_evidence

CPU = torch.device("cpu")
PROMPT = tuple(range(5, 45))
SHAPE = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip


class MadeClient(AgentClient):
    """Answers with what it is given, and asks nobody."""

    def __init__(self, answer: Callable[[], Reply]) -> None:
        super().__init__("http://nobody")
        self._answer = answer

    async def turn(self, session: str, prompt: Sequence[int], max_tokens: int, *, logprobs: bool = True) -> Reply:
        assert not logprobs
        return self._answer()


@pytest.fixture(scope="module")
def name(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shape") / "config.json"
    path.write_text(json.dumps(SHAPE))
    return f"random:{path}"


@pytest.fixture(scope="module")
def model(name: str) -> Model:
    return open_model(name, dtype=torch.float32, device=CPU, seed=0)


def paced(client: AgentClient, model: Model) -> TokenPace:
    async def work() -> TokenPace:
        async with aclosing(client):
            return await measure_token_pace(client, model, CPU, PROMPT, 6)

    return asyncio.run(work())


def judged(pace: TokenPace | None, *, device: str = "cuda") -> Criterion:
    return judge_decode(make_evidence(device=torch.device(device), memory_reason="no such process", token_pace=pace))


def test_a_real_server_is_timed_round_by_round_and_keeps_no_session(name: str, model: Model) -> None:
    with ServerProcess(["--model", name, "--device", "cpu", "--port", "0", "--seed", "0"]) as server:
        found = paced(connect("signal", server.address), model)

        async def states() -> dict[str, str] | None:
            async with aclosing(connect("signal", server.address)) as client:
                return await client.states()

        assert asyncio.run(states()) == {}
    assert len(found.server_s) == len(found.generate_s) == 30
    assert min(found.server_s + found.generate_s) > 0
    assert found.ratio is not None
    assert not found.reason


def test_a_server_that_takes_a_second_a_token_fails(model: Model) -> None:
    found = paced(MadeClient(lambda: Reply(token_at_s=(1.0, 2.0, 3.0))), model)
    assert set(found.server_s) == {1.0}
    row = judged(found)
    assert row.status is Status.FAIL
    assert row.observed == pytest.approx(1 / min(found.generate_s))


def test_rounds_with_a_neighbour_change_no_verdict() -> None:
    pace = TokenPace(server_s=(1.4, 1.7, 1.0, 9.0, 1.7), generate_s=(1.0, 1.4, 1.0, 1.0, 1.4))
    assert judged(pace).status is Status.PASS


def test_no_neighbour_of_generate_makes_up_for_a_slow_server() -> None:
    pace = TokenPace(server_s=(1.2, 1.2, 1.2), generate_s=(1.0, 1.7, 1.7))
    assert judged(pace).status is Status.FAIL
    assert judged(pace).observed == pytest.approx(1.2)


def test_an_answer_in_one_piece_has_no_pace(model: Model) -> None:
    found = paced(MadeClient(lambda: Reply(token_at_s=(1.0,))), model)
    assert found.ratio is None
    row = judged(found)
    assert row.status is Status.INCONCLUSIVE
    assert "one piece" in row.reason


def test_a_server_that_refuses_costs_the_ratio_and_nothing_else(model: Model) -> None:
    def refuse() -> Reply:
        raise InstrumentError("HTTP 503")

    row = judged(paced(MadeClient(refuse), model))
    assert row.status is Status.INCONCLUSIVE
    assert "503" in row.reason


def test_without_a_gpu_of_the_server_in_this_machine_nothing_is_compared() -> None:
    assert "no GPU" in judged(None, device="cpu").reason
    assert "no such process" in judged(None).reason
