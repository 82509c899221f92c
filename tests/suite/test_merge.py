"""Many folders become one: nothing is overwritten, nothing is lost, and what is missing is said."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_checks.cli import main
from djinn_checks.errors import RunnerError
from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.history import Visit, trace_history
from djinn_checks.report.suite.hosts import split_host
from djinn_checks.suite.execution import Job
from djinn_checks.suite.files import read_finished
from djinn_checks.suite.merge import Part, merge_folders
from djinn_checks.suite.params_folder import read_suite
from djinn_checks.suite.shards import SHARDS, add_split, choose_shard, read_shard, read_splits
from tests.report.suite.many_runs import RATIO, make_runs, write_runs
from tests.whole import whole

ROOT = Path(__file__).parents[2]
INTEL, AMD = {"cpu": {"model": "Intel(R) Xeon(R)", "threads": 16}}, {"cpu": {"model": "AMD EPYC 9654", "threads": 192}}


def put(folder: Path, name: str, outcome: Outcome, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    outcome.save(folder / f"{name}.outcome.json")
    for ending, text in ({"html": "<p>a page</p>"} | files).items():
        (folder / f"{name}.{ending.replace('_', '.')}").write_text(text)
    return folder


def merge(out: Path, *folders: Path | str) -> int:
    return main(["merge", *map(str, folders), "--out", str(out)])


def test_twelve_folders_of_two_machines_become_one_and_every_outcome_is_in_it(tmp_path: Path) -> None:
    found = make_runs(1)
    folders = write_runs(tmp_path, found)
    for folder in folders:  # pages are there, so that no report has to be rendered for want of one
        (folder / "pcie.html").write_text("a page")
    for place, folder in enumerate(folders):  # runs of one machine differ in time, which tells them apart
        shutil.move(folder / "pcie.outcome.json", folder / f"pcie-{place:02d}.outcome.json")
        shutil.move(folder / "pcie.html", folder / f"pcie-{place:02d}.html")
    merged = merge_folders([Part(folder=folder) for folder in folders], tmp_path / "all")
    assert (merged.problems, len(merged.runs)) == ((), 12)
    kept = read_finished(tmp_path / "all").outcomes
    assert {outcome.started_at: outcome for outcome in kept.values()} == {
        outcomes["pcie"].started_at: outcomes["pcie"] for outcomes in found
    }
    page = (tmp_path / "all" / "index.html").read_text()
    assert {"h200-f966", "h200-7097", "Hosts"} <= set(re.findall(r"[\w-]+", page))


def test_one_suite_of_two_hosts_stands_side_by_side_with_all_of_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"log": "printed", "params_yaml": "a: 1", "samples_steps_csv": "x\n1\n"}
    one = put(tmp_path / "one", "logits", whole(environment=INTEL), **kinds)
    two = put(tmp_path / "two", "logits", whole(environment=AMD, summary="other"), **kinds)
    put(two, "pcie", whole("pcie", environment=AMD))
    assert merge(tmp_path / "all", f"node-1={one}", two) == 0
    names = {file.name for file in (tmp_path / "all").iterdir()}
    hosts = {split_host(name).host for name in read_finished(tmp_path / "all").outcomes}
    label = next(host for host in hosts if host.startswith("epyc"))
    endings = ("outcome.json", "html", "log", "params.yaml", "samples.steps.csv")
    assert names == {f"logits@{host}.{ending}" for host in ("node-1", label) for ending in endings} | {
        "pcie.outcome.json", "pcie.html", "index.html", "ro-crate-metadata.json", "SHA256SUMS",
    }  # fmt: skip
    page, crate = ((tmp_path / "all" / name).read_text() for name in ("index.html", "ro-crate-metadata.json"))
    assert "./logits%40node-1.html" in page
    assert "Claims, host by host" in page
    assert "logits@node-1.samples.steps.csv" in crate
    assert '<a href="./index.html"' in (tmp_path / "all" / "logits@node-1.html").read_text(), "rendered under its name"
    assert "is logits@node-1" in capsys.readouterr().out
    again = merge_folders([Part(folder=tmp_path / "all"), Part(folder=two)], tmp_path / "again")
    assert set(again.runs) == set(read_finished(tmp_path / "all").outcomes), "who was renamed once keeps that name"


@pytest.fixture
def without_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pages of renamed runs, which take seconds, where a test is not about them."""
    monkeypatch.setattr("djinn_checks.suite.merge.render_names", lambda folder, names: [])


@pytest.mark.usefixtures("without_pages")
def test_twelve_folders_with_one_name_lose_nothing_and_all_that_is_odd_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = make_runs(3, regression=0.03)
    other = found[4]["pcie"].to_dict()
    other["environment"]["packages"]["djinn-checks"] = "0.2.0"
    found[4] = {"pcie": Outcome.from_dict(other)}
    folders = write_runs(tmp_path, found)
    shutil.copy(folders[0] / "pcie.outcome.json", folders[1] / "again.outcome.json")
    (folders[1] / "again.outcome.json").rename(folders[2] / "pcie.outcome.json")  # the outcome of two folders
    _, split = choose_shard("nightly", read_suite(ROOT / "params" / "replay"), (1, 2))
    add_split(folders[5], split)
    before = {file: file.read_bytes() for folder in folders for file in folder.iterdir()}
    assert merge(tmp_path / "all", *folders) == 5
    told = capsys.readouterr()
    assert "night-00 and " in told.out
    assert "have the same, kept once" in told.out
    assert re.search(r"the runs are of \d versions of djinn-checks: .*0\.2\.0 at 020e88", told.out)
    assert "nightly: shard 2/2 is missing, with pcie-bursty, pcie-resident" in told.err
    kept = read_finished(tmp_path / "all").outcomes
    whole_runs = [place for place in range(12) if place != 2]
    assert sorted(outcome.started_at for outcome in kept.values()) == sorted(
        found[place]["pcie"].started_at for place in whole_runs
    )
    assert {file: file.read_bytes() for folder in folders for file in folder.iterdir()} == before
    history = trace_history([Visit(label="all", outcomes=kept)])
    assert [(series.criterion, series.machine) for series, _ in history.changed] == [(RATIO, "h200-7097")]


@pytest.mark.usefixtures("without_pages")
def test_a_link_that_leads_out_of_a_folder_takes_nothing_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = put(tmp_path / "one", "logits", whole(environment=INTEL))
    (tmp_path / "secret").write_text("a key")
    (one / "logits.log").symlink_to("../secret")
    (one / "logits.params.yaml").symlink_to("logits.html")
    assert merge(tmp_path / "all", one) == 5
    assert "logits.log: is a link that leads out of its folder, and was left" in capsys.readouterr().err
    assert {"logits.log", "logits.params.yaml"} & {file.name for file in (tmp_path / "all").iterdir()} == {
        "logits.params.yaml"
    }
    assert not (tmp_path / "all" / "logits.params.yaml").is_symlink()


@pytest.mark.usefixtures("without_pages")
def test_the_same_outcome_is_kept_once_and_other_evidence_beside_it_is_not_the_same(tmp_path: Path) -> None:
    one = put(tmp_path / "one", "logits", whole(environment=INTEL), ipynb="long long", log="same")
    two = put(tmp_path / "two", "logits", whole(environment=INTEL), ipynb="slim", log="same", samples_s_csv="1")
    merged = merge_folders([Part(folder=two), Part(folder=one)], tmp_path / "all")
    assert list(merged.runs) == ["logits"]
    assert "have the same, kept once" in merged.notes[0]
    assert (tmp_path / "all" / "logits.ipynb").read_text() == "long long"
    assert (tmp_path / "all" / "logits.samples.s.csv").is_file()
    (two / "logits.log").write_text("changed")
    apart = merge_folders([Part(folder=two), Part(folder=one)], tmp_path / "apart")
    assert len(apart.runs) == 2


@pytest.mark.usefixtures("without_pages")
def test_what_cannot_be_read_travels_is_named_and_all_else_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = put(tmp_path / "one", "logits", whole(environment=INTEL)), put(tmp_path / "two", "pcie", whole("pcie"))
    other = json.loads((one / "logits.outcome.json").read_text()) | {"schema": "djinn-checks/outcome/2"}
    (two / "logits.outcome.json").write_text(json.dumps(other))
    assert merge(tmp_path / "all", one, two) == 5
    assert "another version" in capsys.readouterr().err
    assert len(list((tmp_path / "all").glob("logits@*.outcome.json"))) == 2


def test_nothing_is_overwritten_and_impossible_folders_are_refused(tmp_path: Path) -> None:
    one = put(tmp_path / "one", "logits", whole())
    before = {file.name: file.read_bytes() for file in one.iterdir()}
    for part, out, said in (
        (Part(folder=one), one, "one of the folders"),
        (Part(folder=tmp_path), tmp_path / "out", "found none"),
        (Part(folder=one, host="a.b"), tmp_path / "out", "is named by letters"),
        (Part(folder=one), put(tmp_path / "full", "pcie", whole("pcie")), "nothing is overwritten"),
    ):
        with pytest.raises(RunnerError, match=said):
            merge_folders([part], out)
    assert {file.name: file.read_bytes() for file in one.iterdir()} == before
    assert not list((tmp_path / "full").glob("logits*"))


def test_other_versions_are_said(tmp_path: Path) -> None:
    versions = [{"packages": {"djinn-checks": version}} for version in ("0.1.0", "0.2.0")]
    one = put(tmp_path / "one", "logits", whole(environment=versions[0]))
    two = put(tmp_path / "two", "pcie", whole("pcie", environment=versions[1]))
    merged = merge_folders([Part(folder=one), Part(folder=two)], tmp_path / "all")
    assert "2 versions of djinn-checks: 0.1.0 (logits); 0.2.0 (pcie)" in merged.notes[-1]
    assert merged.problems == ()


@pytest.mark.parametrize("suite", ["smoke", "full"])
@pytest.mark.parametrize("of", [1, 3, 4])
def test_shards_are_disjoint_balanced_and_together_the_suite(suite: str, of: int) -> None:
    jobs = read_suite(ROOT / "params" / suite)
    shards = [[job.name for job in choose_shard(suite, jobs, (number, of))[0]] for number in range(1, of + 1)]
    assert sorted(name for shard in shards for name in shard) == sorted(job.name for job in jobs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    again = [[job.name for job in choose_shard(suite, jobs[::-1], (n, of))[0]] for n in range(1, of + 1)]
    assert [sorted(shard) for shard in again] == [sorted(shard) for shard in shards]


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/2", "1/2/3", "-1/2", "1.0/2", "½/2"])
def test_a_shard_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(RunnerError, match="expected i/n"):
        read_shard(text)
    assert main(["run", str(ROOT / "params" / "replay"), f"--shard={text}", "--out", "/dev/null/none"]) == 2


def test_a_missing_shard_and_a_job_that_left_nothing_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = read_suite(ROOT / "params" / "replay")
    one, two = (run_shard(tmp_path / f"s{number}", jobs, number) for number in (1, 2))
    assert merge(tmp_path / "half", one) == 5
    assert "replay: shard 2/2 is missing, with pcie-bursty, pcie-resident" in capsys.readouterr().err
    assert merge(tmp_path / "all", tmp_path / "half", two) == 0
    assert read_splits(tmp_path / "all")[0].missing == []
    assert sorted(read_finished(tmp_path / "all").outcomes) == [job.name for job in jobs]
    (two / "pcie-bursty.outcome.json").unlink()
    merged = merge_folders([Part(folder=one), Part(folder=two)], tmp_path / "lost")
    assert merged.problems == ("replay: a shard ran and left no outcome of pcie-bursty",)
    other = [replace(job, resolved=job.resolved | {"window_ms": 7.0}) for job in jobs]
    changed = run_shard(tmp_path / "changed", other, 2)
    merged = merge_folders([Part(folder=one), Part(folder=changed)], tmp_path / "mixed")
    assert "2 suites of that name" in merged.problems[-1]
    (one / SHARDS).write_text("{")
    assert merge(tmp_path / "torn", one, two) == 5


def run_shard(out: Path, jobs: list[Job], number: int) -> Path:
    chosen, split = choose_shard("replay", jobs, (number, 2))
    out.mkdir()
    add_split(out, split)
    for job in chosen:
        put(out, job.name, whole(job.check))
    return out
