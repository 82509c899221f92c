"""Params are refused where they enter, in a sentence that says how to put them right."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from djinn_checks.errors import ParamsError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PARAMS, LogitsParams, Params


def refused(**values: object) -> str:
    with pytest.raises(ParamsError) as caught:
        LogitsParams.create(**values)
    return str(caught.value)


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    assert "budget_fracton: unknown name (got 0.5); did you mean 'budget_fraction'?" in refused(budget_fracton=0.5)
    assert "known: " in refused(zzz=1)


def test_every_offence_is_listed_at_once() -> None:
    message = refused(passes=1, budget_gb=-2.0, dtype="fp16")
    assert "3 problems" in message
    assert all(name in message for name in ("passes", "budget_gb", "dtype", "float16"))


def test_a_problem_is_named_as_its_file_names_it() -> None:
    assert "  decode_tokens: Input should be greater than or equal to 1; got -1" in refused(decode_tokens=-1)
    with pytest.raises(ParamsError, match=r"server_address: expected http://HOST:PORT, got 'localhost:5556'"):
        PARAMS["agents"].create(server_address="localhost:5556")


def test_a_yaml_number_that_arrived_as_text_is_explained() -> None:
    assert "got '1e-3' as text: write it with a dot and no quotes (0.001)" in refused(l2_threshold="1e-3")


def test_types_are_not_guessed() -> None:
    assert "passes" in refused(passes="3")
    assert "prompts" in refused(prompts=True)
    assert LogitsParams.create(l2_threshold=1).l2_threshold == 1.0


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cpu:1", ""])
def test_a_device_that_cannot_be_is_refused(device: str) -> None:
    assert "expected auto, cpu, cuda or cuda:<index>" in refused(device=device)


def test_two_budgets_at_once_are_refused_and_none_means_a_quarter() -> None:
    assert "give one of the two" in refused(budget_fraction=0.5, budget_gb=1.0)
    assert LogitsParams.create().budget_bytes(1000) == 250
    assert LogitsParams.create(budget_gb=2.0).budget_bytes(1000) == 2_000_000_000


def test_a_value_that_may_be_of_two_types_is_told_both_in_one_line() -> None:
    said = refused(prompts=31)
    assert said.endswith("prompts: Input should be less than or equal to 30, or: Input should be a valid list; got 31")
    assert "1 problem\n" in said


def test_the_class_itself_refuses_as_its_factory_does() -> None:
    with pytest.raises(ParamsError, match=r"modle: unknown name \(got 'x'\); did you mean 'model'"):
        LogitsParams(modle="x")  # type: ignore[call-arg]


def test_params_are_frozen() -> None:
    with pytest.raises(ValidationError):
        LogitsParams.create().passes = 5  # type: ignore[misc]


def test_names_that_papermill_injected_are_checked_and_the_readers_own_variables_are_not() -> None:
    cells = ["", "passes = 3", "# Parameters\npasses = 4\npases = 5\n"]
    with pytest.raises(ParamsError, match="pases: unknown name .got 5.; did you mean 'passes'"):
        LogitsParams.from_notebook({"In": cells, "passes": 4, "pases": 5, "mine": 1})
    assert LogitsParams.from_notebook({"In": cells[:2], "passes": 4, "mine": 1}).passes == 4
    with_path = ["# Parameters\npasses = 4\nPAPERMILL_OUTPUT_PATH = 'x'\n"]
    assert LogitsParams.from_notebook({"In": with_path, "passes": 4}).passes == 4


def test_where_a_notebook_saves_is_its_own_affair_and_no_parameter() -> None:
    cells = ["save_to = ''", "# Parameters\npasses = 4\nsave_to = 'x.json'\n"]
    params = LogitsParams.from_notebook({"In": cells, "passes": 4, "save_to": "x.json"})
    assert params.passes == 4
    assert "save_to" not in params.model_dump()
    assert "save_to: no parameter; a suite keeps its own files (--out)" in refused(save_to="x.json")
    with pytest.raises(ParamsError, match="save_to: expected the name of a file, got 5"):
        LogitsParams.from_notebook({"In": cells, "passes": 4, "save_to": 5})


@pytest.mark.parametrize("model", PARAMS.values(), ids=PARAMS)
def test_every_parameter_says_what_it_is(model: type[Params]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_what_checks_share_is_said_in_the_same_words() -> None:
    own = {"dtype"}  # the agents check's is of the KV cache
    said: dict[str, set[str | None]] = {}
    for model in PARAMS.values():
        for name, field in model.model_fields.items():
            said.setdefault(name, set()).add(field.description)
    assert {name for name, words in said.items() if len(words) > 1} == own


def test_a_cell_that_is_run_again_does_not_take_its_own_result_for_a_path() -> None:
    done = Outcome(check="logits", status=Status.PASS, summary="")
    assert LogitsParams.from_notebook({"outcome": done, "passes": 4}).outcome == ""
    assert LogitsParams.from_notebook({"outcome": "a.json"}).outcome == "a.json"
