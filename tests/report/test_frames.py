"""Samples come as frames, the same as the files beside a report, and outcomes show themselves in a notebook."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report import frontend
from djinn_checks.report.frames import list_frames, tabulate_frames
from djinn_checks.report.load import load_outcome
from tests.report import samples
from tests.report.pcie.samples import replayed

AGENTS = Path(__file__).parents[1] / "data" / "outcomes" / "agents.outcome.json"


def test_criteria_and_series_of_the_logits_check_are_frames() -> None:
    frames = list_frames(samples.failed())
    assert list(frames["criteria"].columns[:3]) == ["name", "status", "required"]
    assert len(frames["prefill_kl"]) == 900
    assert set(frames["prefill_kl"].columns) == {"position", "kl_mean_nats", "kl_max_nats"}
    differences = frames["prefill_differences"]
    total = differences.negative.sum() + differences.positive[1:].sum()
    assert total == samples.failed().measurements["statistics"]["prefill"]["elements"]


def test_every_statistic_of_system_and_floor_is_a_column_percentiles_among_them() -> None:
    statistics = list_frames(samples.failed())["statistics"]
    assert statistics[["side", "phase"]].to_numpy().tolist() == [
        ["system", "prefill"], ["system", "decode"], ["floor", "prefill"], ["floor", "decode"],
    ]  # fmt: skip
    assert {"kl.p999", "delta_p.p95", "perplexity_ratio_error", "margin.p1", "ulp.max"} <= set(statistics.columns)
    assert statistics.perplexity_ratio.dtype == float, "what JSON holds as text is a number again"
    assert statistics.perplexity_ratio.isna().tolist() == [True, True, False, False]


def test_every_window_of_a_link_is_a_row_at_its_second() -> None:
    outcome = replayed("bursty")
    windows = list_frames(outcome)["windows"]
    assert windows.rx_mb_per_s.tolist() == outcome.measurements["windows"]["rx_mb_per_s"]
    assert windows.start_s[50] == pytest.approx(1.0)


def test_an_agents_readings_and_wakes_are_frames() -> None:
    wakes = [{"queue_s": 0.1, "restore_s": None, "wake_s": 0.5}]
    crowd = {"wakes": wakes, "memory": [[0.0, 1.5e9]], "states": [[0.0, {"IDLE": 2}], [0.1, {"ACTIVE": 1}]]}
    outcome = Outcome(check="agents", status=Status.PASS, summary="", timings={"crowd": crowd, "memory": [[0.1, 7]]})
    frames = list_frames(outcome)
    assert frames["wakes"].wake_s.tolist() == [0.5]
    assert frames["crowd_states"].shape == (2, 3)
    assert frames["memory"].to_dict("records") == [{"at_s": 0.1, "used_bytes": 7}]


def test_what_the_sleeper_and_its_twins_said_is_a_frame_and_so_are_the_crowds_turns() -> None:
    frames = list_frames(load_outcome(AGENTS))
    turns = frames["turns"]
    assert turns.turn.tolist() == [1, 2]
    assert turns.nll_slept_nats.tolist() == turns.nll_hot_nats.tolist()
    assert turns.slept.tolist() == turns.hot.tolist()
    crowd = frames["crowd_turns"]
    assert list(crowd.columns) == ["agent", "sent_s", "first_token_s", "end_s"]
    assert (crowd.sent_s < crowd.first_token_s).all()
    assert (crowd.first_token_s <= crowd.end_s).all()


def test_an_outcome_without_measurements_has_its_criteria_alone() -> None:
    assert list(list_frames(samples.inconclusive())) == ["criteria"]
    assert list(list_frames(Outcome(check="<other>", status=Status.PASS, summary=""))) == ["criteria"]


def test_a_frame_comes_back_from_its_csv_as_it_was() -> None:
    frame = list_frames(samples.failed())["prefill_kl"]
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(frame.to_csv(index=False))), frame)


def test_the_table_of_samples_names_each_with_its_columns() -> None:
    table = tabulate_frames(samples.failed())
    for name, frame in list_frames(samples.failed()).items():
        row = table.partition(f">{name}<")[2].partition("</tr>")[0]
        assert f"{len(frame):,}" in row
        assert ", ".join(frame.columns) in row


def test_whoever_looks_at_no_frame_loads_no_pandas(tmp_path: Path) -> None:
    file = samples.passed().save(tmp_path / "x.outcome.json")
    code = (
        "import sys; from djinn_checks import list_frames, load_outcome\n"
        f"frames = list_frames(load_outcome({str(file)!r})); print(frames, 'pandas' in sys.modules)\n"
        "print(frames['criteria'] is frames['criteria'], 'pandas' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = run.stdout.splitlines()
    assert first.startswith("frames of pandas, by name: criteria, ")
    assert first.endswith("False")
    assert second == "True True"


def test_a_cell_that_ends_with_an_outcome_shows_its_tables() -> None:
    shell = InteractiveShell()
    frontend.register(shell)
    shown, _ = shell.display_formatter.format(samples.failed())
    assert '<table class="criteria">' in shown["text/html"]
    assert shown["text/plain"].startswith("logits: FAIL: ")
    shown, _ = shell.display_formatter.format(samples.failed().criteria[0])
    assert "weights_streamed" in shown["text/html"]
    assert "_repr_html_" not in dir(Outcome), "an outcome is data, and knows of no page"


def test_a_notebook_that_imports_the_package_shows_outcomes_and_loads_no_torch_for_it(tmp_path: Path) -> None:
    file = samples.passed().save(tmp_path / "x.outcome.json")
    code = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell; s = InteractiveShell.instance()\n"
        f"from djinn_checks import load_outcome; o = load_outcome({str(file)!r})\n"
        "print('criteria' in s.display_formatter.format(o)[0]['text/html'], 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "False"]
