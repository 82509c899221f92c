"""A finished suite is rendered anew anywhere: the same bytes, without torch, in seconds. Real runs."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.errors import RunnerError
from djinn_checks.outcome import Outcome
from djinn_checks.report.left import LEFT
from djinn_checks.suite.folder import render_folder, slim_notebooks
from djinn_checks.suite.params_folder import read_suite
from djinn_checks.suite.runner import run_suite

MOST_CPU_S = 20.0
"""For four pages: 10 s on two cores. Other tests use the cores meanwhile, so it is their time that is counted."""
TRACE = Path(__file__).parents[1] / "data" / "traces" / "ring.csv.gz"
WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "pynvml", "accelerate", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ModuleNotFoundError:
    from djinn_checks.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite with a report of each kind that needs no GPU: both checks, and one that could not run."""
    folder, out = tmp_path_factory.mktemp("suite"), tmp_path_factory.mktemp("out")
    (folder / "logits.yaml").write_text(
        "model: random:tiny\nbudget_fraction: 0.5\nprompts: 2\ndecode_tokens: 2\ndevice: cpu\n"
    )
    (folder / "pcie.yaml").write_text(f"trace: {TRACE}\ndevice: cpu\n")
    (folder / "pcie-error.yaml").write_text("trace: there/is/none.csv.gz\ndevice: cpu\n")
    statuses = {result.job.name: result.outcome.status.value for result in run_suite(read_suite(folder), out)}
    assert statuses == {"logits": "PASS", "pcie": "PASS", "pcie-error": "ERROR"}
    return out


def test_a_machine_without_torch_renders_the_bytes_that_the_run_wrote(suite: Path) -> None:
    before = {page.name: page.read_bytes() for page in suite.glob("*.html")}
    assert set(before) == {"logits.html", "pcie.html", "pcie-error.html", "index.html"}
    for page in suite.glob("*.html"):
        page.unlink()
    before_s = cpu_seconds_of_children()
    run = subprocess.run([sys.executable, "-c", WITHOUT, "render", str(suite)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert cpu_seconds_of_children() - before_s < MOST_CPU_S, "rendering a finished suite takes seconds"
    assert {page.name: page.read_bytes() for page in suite.glob("*.html")} == before


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_notebooks_without_their_figures_give_the_same_pages_and_are_small(suite: Path, tmp_path: Path) -> None:
    slim = shutil.copytree(suite, tmp_path / "slim")
    assert main(["slim", str(slim)]) == 0
    assert (slim / "pcie.ipynb").stat().st_size < 0.5 * (suite / "pcie.ipynb").stat().st_size
    render_folder(slim)
    for page in ("logits.html", "pcie.html", "pcie-error.html"):
        assert (slim / page).read_bytes() == (suite / page).read_bytes()
    with pytest.raises(RunnerError, match="found none"):
        slim_notebooks(tmp_path)


def test_an_executed_notebook_has_the_figures_of_its_page(suite: Path) -> None:
    for name, fewest in (("logits", 2), ("pcie", 3)):
        text, page = ((suite / f"{name}.{kind}").read_text() for kind in ("ipynb", "html"))
        data = [
            output["data"]
            for cell in json.loads(text)["cells"]
            for output in cell.get("outputs", ())
            if "data" in output
        ]
        drawn = [shown for shown in data if "<figure>" in "".join(shown.get("text/html", ""))]
        assert len(drawn) >= fewest
        for shown in drawn:
            assert re.findall(r'<img src="(.+?)"', shown["text/html"])[0] in page
            assert f'alt="{escape(shown["text/plain"])}"' in page
        assert LEFT not in text


def test_outcomes_alone_are_rendered_with_every_figure_and_table(suite: Path, tmp_path: Path) -> None:
    for file in suite.glob("*.outcome.json"):
        shutil.copy(file, tmp_path)
    run = subprocess.run([sys.executable, "-c", WITHOUT, "render", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in ("logits", "pcie"):
        whole, alone = ((folder / f"{name}.html").read_text() for folder in (suite, tmp_path))
        assert "could not be made" not in whole
        assert "could not be read" not in whole
        for begin, end in (("<figure>", "</figure>"), ("<table", "</table>")):
            parts = [begin + part.partition(end)[0] for part in whole.split(begin)[1:]]
            assert len(parts) >= 2
            assert [part for part in parts if part not in alone] == []


def test_beside_each_report_lie_params_as_given_notebook_log_and_samples_as_tables(suite: Path) -> None:
    for name in ("logits", "pcie"):
        there = {file.name.removeprefix(f"{name}.") for file in suite.glob(f"{name}.*")}
        assert {"outcome.json", "html", "ipynb", "log", "params.yaml", "samples.criteria.csv"} <= there
        assert len([file for file in there if file.endswith(".csv")]) >= 2
        assert "djinn-checks-run-" not in (suite / f"{name}.ipynb").read_text(), "no trace of the scratch folder"
    assert (suite / "logits.params.yaml").read_text().startswith("model: random:tiny")
    outcome = Outcome.load(suite / "logits.outcome.json")
    assert outcome.params["top_k"] == 5, "as resolved: defaults included"
    assert outcome.environment["system"]["name"] == "ring"
    assert len(outcome.environment["notebook"]["sha256"]) == 64
    index = (suite / "index.html").read_text()
    assert all(f"./{name}" in index for name in ("logits.params.yaml", "pcie.samples.windows.csv"))


def test_a_machine_without_torch_compares_suites(suite: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "compare", str(suite), str(suite), "--html", str(tmp_path / "page.html")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "0 of " in (tmp_path / "page.html").read_text()
