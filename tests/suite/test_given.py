"""What the command line gives reaches the checks that know it, and what nothing answers to is refused at once."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from djinn_checks.cli import main
from djinn_checks.commands.running import Teller
from djinn_checks.errors import ParamsError
from djinn_checks.models.open import SHAPES as MODEL_SHAPES
from djinn_checks.report.progress import Stage
from djinn_checks.suite import given
from djinn_checks.suite.folder import set_aside
from djinn_checks.suite.params_folder import read_limits, read_suite
from djinn_checks.suite.storage import keep
from djinn_checks.suite.texts import shorten
from djinn_checks.systems.base import ENTRY_POINT_GROUP
from tests.suite.runs import write_params
from tests.whole import whole

PARAMS = Path(__file__).parents[2] / "params"


def test_a_given_parameter_replaces_the_file_s_in_every_check_that_has_it() -> None:
    values = given.read_given(["device=cpu", "budget_gb=0.2", "budget_fraction=null"])
    jobs = {job.name: job for job in read_suite(PARAMS / "smoke", (), values)}
    assert jobs["logits"].resolved["budget_gb"] == jobs["pcie"].resolved["budget_gb"] == 0.2
    assert "budget_gb" not in jobs["agents"].resolved
    assert yaml.safe_load(yaml.safe_dump(jobs["logits"].values)) == jobs["logits"].values


def test_the_params_file_that_is_kept_has_the_given_values(tmp_path: Path) -> None:
    told = "# what it is for\nmodel: random:tiny  # small\nsystem: ring\n"
    (tmp_path / "logits.yaml").write_text(told)
    for number, (values, kept) in enumerate(
        [
            ({}, told),
            ({"system": "ring"}, told),
            (
                {"seed": 5, "system": "uva"},
                "# what it is for\n# Run with another seed, system than the file's (--set).\n"
                "model: random:tiny\nsystem: uva\nseed: 5\n",
            ),
        ]
    ):
        (job,) = read_suite(tmp_path, (), values)
        out = tmp_path / f"out-{number}"
        keep(None, whole("logits"), job, out)
        assert (out / "logits.params.yaml").read_text() == kept


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["device"], "expected name=value"),
        (["devize=cpu"], "did you mean 'device'"),
        (["seed=1", "seed=2"], "stands twice"),
        (["seed=[1"], "cannot be read as YAML"),
    ],
    ids=["no value", "unknown name", "twice", "no YAML"],
)
def test_what_cannot_be_given_is_refused(texts: list[str], says: str) -> None:
    with pytest.raises(ParamsError, match=says):
        given.read_given(texts)


def test_what_no_check_that_would_run_has_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"kv_device_gb: none of the checks that would run \(pcie\)"):
        read_suite(PARAMS / "smoke", ["pcie"], {"kv_device_gb": 1.0})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"system": "rinng"}, "unknown name 'rinng'; did you mean 'ring'"),
        ({"model": "random:tinny"}, "did you mean 'random:tiny'"),
        ({"model": "smolm2"}, "did you mean 'smollm2'"),
        ({"model": "./no/such/folder"}, "there is no folder"),
        ({"system": "tests.fake:TinyModel"}, "there is no module 'fake' in 'tests'; did you mean 'fakes'"),
        ({"system": "tests.fakes:StreamingFakke"}, "tests.fakes has no 'StreamingFakke'; did you mean 'StreamingFake'"),
    ],
    ids=["system", "shape", "model", "folder", "module", "class"],
)
def test_a_name_that_nothing_answers_to_is_exit_2_before_a_kernel_starts(
    values: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_params(tmp_path / "suite", yaml.safe_dump(values))
    assert main(["run", str(suite), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_class_that_a_module_may_make_without_writing_its_name_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("makes_names.py").write_text("from tests.fakes import *\n")
    Path("imports_one.py").write_text("from tests.fakes import StreamingFake as Mine\n")
    for name in ("makes_names:Whatever", "imports_one:Mine", "tests.fakes:StreamingFake.open"):
        given.refuse_unknown_names({"system": name})
    with pytest.raises(ParamsError, match="imports_one has no 'Yours'"):
        given.refuse_unknown_names({"system": "imports_one:Yours"})


def test_names_that_may_be_anybody_s_are_let_be(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for name in ("smollm2", "random:tiny", "owner/name", "gpt2", str(tmp_path), f"random:{tmp_path}/config.json"):
        given.refuse_unknown_names({"model": name, "system": "ring"})
    given.refuse_unknown_names({"system": "whoever recorded it", "trace": "trace.csv.gz"})


def test_the_names_are_those_of_the_rooms_that_own_them() -> None:
    assert given.SHAPES == MODEL_SHAPES
    assert given.SYSTEMS == ENTRY_POINT_GROUP


def test_one_file_is_a_suite_of_itself_with_the_limits_beside_it() -> None:
    (job,) = read_suite(PARAMS / "smoke" / "logits.yaml")
    assert (job.name, job.check) == ("logits", "logits")
    assert read_limits(PARAMS / "smoke" / "logits.yaml") == read_limits(PARAMS / "smoke")


def test_a_part_of_a_suite_sets_aside_its_own_files_alone(tmp_path: Path) -> None:
    for name in ("logits", "pcie"):
        whole(name, started_at="2026-01-02T03:04:05+00:00").save(tmp_path / f"{name}.outcome.json")
    (tmp_path / "index.html").write_text("page")
    assert set_aside(tmp_path, ["logits", "logits-absent"]) == tmp_path / "earlier" / "20260102T030405"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["earlier", "index.html", "pcie.outcome.json"]
    assert set_aside(tmp_path, ["logits"]) is None


def test_a_message_is_cut_between_words_and_never_within_a_number() -> None:
    text = "expected at least 1234567 bytes"
    assert shorten(text, len(text)) == text
    assert shorten(text, 22) == "expected at least…"
    assert shorten("x" * 50, 10) == "x" * 9 + "…"


def test_in_a_pipe_a_line_at_intervals_says_the_stage_and_how_far_it_is() -> None:
    now, said = [0.0], io.StringIO()
    (job,) = read_suite(PARAMS / "smoke", ["agents"])
    teller = Teller(3, None, lambda line: print(line, file=said), clock=lambda: now[0])
    teller.start(job)
    for second in range(40):
        now[0] = float(second)
        teller.tell(job, Stage("decode", second, 40.0))
    assert said.getvalue().splitlines() == [
        "...  agents (1 of 3): starts",
        "...  agents (1 of 3): decode, 38%, 15 s",
        "...  agents (1 of 3): decode, 75%, 30 s",
    ]
    shown: list[tuple[str, float]] = []
    watched = Teller(3, lambda *bar: shown.append(bar), lambda line: None)
    watched.start(job)
    watched.tell(job, Stage("decode", 10, 40.0))
    assert shown == [("agents (1 of 3): starts", 0.0), ("agents (1 of 3): decode, 25%", 0.25)]
