"""`djinn-checks plan` says what would stream, from where and why, and reads no weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_checks.checks.plan import describe_plan
from djinn_checks.cli import main
from djinn_checks.errors import CapacityError, ParamsError
from djinn_checks.models.random_weights import RandomWeights
from tests.models.folders import save_folder


def test_a_checkpoint_streams_where_it_lies_and_the_plan_says_so_and_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_folder("gpt2", tmp_path)
    assert main(["plan", str(tmp_path), "--device", "cpu", "--budget-gb", "0.0008"]) == 0
    said = capsys.readouterr().out
    assert "800 kB for them on cpu" in said
    assert "in model.safetensors: streamed where they lie" in said
    assert "in memory of their own: too short for copies of their own" in said
    cast = describe_plan(str(tmp_path), None, dtype="bfloat16", device="cpu")
    assert any("in memory of their own: stored in another data type" in line for line in cast)
    assert not any("model.safetensors" in line for line in cast)


def test_a_plan_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: RandomWeights, name: str) -> None:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(RandomWeights, "__getitem__", read)
    lines = describe_plan("random:tiny", None, dtype="float32", device="cpu")
    assert any("not stored in a file as they are used" in line for line in lines)


@pytest.mark.parametrize(
    ("budget", "dtype", "error"),
    [(0.0, "float32", ParamsError), (-1.0, "float32", ParamsError), (float("nan"), "float32", ParamsError),
     (1.0, "int4", ParamsError), (1e-6, "float32", CapacityError)],
)  # fmt: skip
def test_what_cannot_be_is_refused(budget: float, dtype: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        describe_plan("random:tiny", budget, dtype=dtype, device="cpu")
