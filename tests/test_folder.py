"""A finished suite is rendered anew anywhere: the same bytes, without torch, in seconds. Real runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from djinn_checks.runner import run_suite
from djinn_checks.suite import read_suite

TRACE = Path(__file__).parent / "data" / "traces" / "ring.csv.gz"
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
    started = time.monotonic()
    run = subprocess.run([sys.executable, "-c", WITHOUT, "render", str(suite)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert time.monotonic() - started < 10, "rendering a finished suite takes seconds"
    assert {page.name: page.read_bytes() for page in suite.glob("*.html")} == before


def test_a_machine_without_torch_compares_suites(suite: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, "compare", str(suite), str(suite), "--html", str(tmp_path / "page.html")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "0 of " in (tmp_path / "page.html").read_text()
