"""`verify` holds a folder against itself: the published reports agree, and whatever is changed in a copy is named."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.host.check import ANATOMY as HOST
from djinn_checks.checks.host.recording import save_recording
from djinn_checks.checks.pcie.anatomy import ANATOMY
from djinn_checks.checks.pcie.evidence import PcieEvidence
from djinn_checks.cli import main
from djinn_checks.faults.host.made import make_evidence as make_host_evidence
from djinn_checks.faults.pcie.traffic import FULL_RATE, make_evidence, make_noisy_evidence, make_series
from djinn_checks.instruments.traces import save_trace
from djinn_checks.outcome import Outcome
from djinn_checks.report.frames import list_frames
from djinn_checks.suite.files import OUTCOME, list_files, read_finished
from djinn_checks.suite.folder import slim_notebooks, write_index
from djinn_checks.suite.manifest import MANIFEST, list_changes, read_manifest, write_manifest
from djinn_checks.suite.shards import SHARDS, Split, write_splits
from djinn_checks.verify.crate import read_title, verify_crate
from djinn_checks.verify.finding import Finding, Kind, worst_code
from djinn_checks.verify.folder import verify_folder
from tests.whole import whole

REPORTS = Path(__file__).parents[2] / "reports"
PUBLISHED = sorted({file.parent for file in REPORTS.rglob(f"*{OUTCOME}")})
H200 = REPORTS / "h200-2026-11-27"
Data = dict[str, Any]


def verify(folder: Path, **options: Any) -> list[Finding]:
    return list(verify_folder(folder, **{"pages": False, **options}))


def named(found: list[Finding], kind: Kind = Kind.DISAGREES) -> set[tuple[str, str]]:
    return {(finding.file, finding.what) for finding in found if finding.kind is kind}


def told(found: list[Finding]) -> str:
    kinds = (Kind.DISAGREES, Kind.UNREADABLE)
    return "\n".join(f"{finding.file}: {finding.what}: {finding.why}" for finding in found if finding.kind in kinds)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies some runs of the published reports into a folder with a manifest."""

    def make(*names: str) -> Path:
        folder = tmp_path / "copy"
        folder.mkdir()
        for name in names:
            for file in list_files(H200, name):
                shutil.copy(file, folder)
        write_manifest(folder)
        return folder

    return make


def edit(folder: Path, name: str, change: Callable[[Data], None]) -> None:
    """Change an outcome, and make the manifest anew, as a forger would."""
    file = folder / f"{name}{OUTCOME}"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    write_manifest(folder)


def row(data: Data, name: str) -> Data:
    return next(row for row in data["criteria"] if row["name"] == name)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_all_that_can_be_derived_of_the_published_reports_agrees(folder: Path) -> None:
    found = verify(folder)
    assert told(found) == ""
    agreed = named(found, Kind.AGREES)
    if (folder / "pcie.samples.csv.gz").exists():
        assert {("pcie.outcome.json", "rx_of_ceiling"), ("pcie.outcome.json", "link.ceiling_bytes_per_s")} <= agreed
    assert worst_code(found) == 0


def test_a_figure_that_is_changed_everywhere_in_an_outcome_is_refuted_by_the_readings(copy: Any) -> None:
    def change(data: Data) -> None:
        data["measurements"]["bytes"]["counted"] *= 1.01
        row(data, "streams_the_model")["observed"] *= 1.01

    folder = copy("pcie-ring")
    edit(folder, "pcie-ring", change)
    assert {what for _, what in named(verify(folder))} == {
        "measurements",
        "criteria",
        "bytes.counted",
        "streams_the_model",
    }


def test_a_status_that_is_changed_is_named_with_its_row(copy: Any) -> None:
    folder = copy("pcie-ramtorch")
    edit(folder, "pcie-ramtorch", lambda data: row(data, "rx_of_ceiling").update(status="PASS", reason=""))
    found = verify(folder)
    assert "row rx_of_ceiling is PASS, and FAIL follows" in told(found)
    assert worst_code(found) == 1


def change_readings(file: Path, change: Callable[[list[list[str]]], None]) -> None:
    lines = list(csv.reader(gzip.decompress(file.read_bytes()).decode().splitlines()))
    change(lines)
    file.write_bytes(gzip.compress("".join(",".join(line) + "\n" for line in lines).encode()))


def test_one_raw_reading_that_is_changed_is_seen_by_what_was_counted(copy: Any) -> None:
    """A reading that lies by one window's bytes moves that window's rate, or leaves a hole."""

    def change(lines: list[list[str]]) -> None:
        middle = lines[len(lines) // 2]
        middle[3] = str((int(middle[3]) + 400_000_000) % 2**32)

    folder = copy("pcie-ring")
    change_readings(folder / "pcie-ring.samples.csv.gz", change)
    assert ("pcie-ring.samples.csv.gz", "digest") in named(verify(folder))
    write_manifest(folder)
    assert any(file == "pcie-ring.outcome.json" for file, _ in named(verify(folder)))


def test_a_ceiling_that_is_lowered_consistently_is_refuted_by_its_copies_in_the_readings(copy: Any) -> None:
    def change(data: Data) -> None:
        link = data["measurements"]["link"]
        link["ceiling_bytes_per_s"] *= 0.9
        for ceiling in (*link["ceilings"], link["ceiling_after"]):
            ceiling["bytes_per_s"] *= 0.9
            ceiling["samples_s"] = [seconds / 0.9 for seconds in ceiling["samples_s"]]

    folder = copy("pcie-ramtorch")
    edit(folder, "pcie-ramtorch", change)
    assert any("link.ceiling_bytes_per_s" in what or "rx_of_ceiling" in why for _, what, why in
               ((f.file, f.what, f.why) for f in verify(folder) if f.kind is Kind.DISAGREES))  # fmt: skip


def test_a_page_that_is_changed_is_named_with_the_place(copy: Any) -> None:
    folder = copy("faults-logits")
    page = folder / "faults-logits.html"
    assert ("faults-logits.html", "page") in named(verify(folder, pages=True), Kind.AGREES)
    page.write_bytes(page.read_bytes().replace(b"18 of 18", b"19 of 19", 1))
    write_manifest(folder)
    found = verify(folder, pages=True)
    assert named(found) == {("faults-logits.html", "page")}
    assert "19 of 19" in told(found)


def test_files_that_are_changed_added_removed_or_linked_are_named(copy: Any) -> None:
    folder = copy("faults-logits", "logits-7b")
    (folder / "faults-logits.params.yaml").write_text("# other\n")
    (folder / "logits-7b.params.yaml").unlink()
    (folder / "logits-7b.log").write_text("added\n")
    (folder / "logits-7b.samples.json.gz").symlink_to("/etc/hostname")
    (folder / "notes.txt").write_text("mine\n")
    found = verify(folder)
    assert {file for file, _ in named(found)} == {
        "faults-logits.params.yaml",
        "logits-7b.params.yaml",
        "logits-7b.log",
        "logits-7b.samples.json.gz",
    }
    assert ("notes.txt", "file") in named(found, Kind.BELIEVED)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0" * 64 + "  ../outside", "leads out of the folder"),
        ("0" * 64 + "  /etc/passwd", "leads out of the folder"),
        ("0" * 64 + "  a//b", "leads out of the folder"),
        ("abc  pcie.html", "no SHA-256 digest"),
    ],
)
def test_a_manifest_that_leads_elsewhere_is_not_followed(copy: Any, line: str, said: str) -> None:
    folder = copy("faults-logits")
    with (folder / MANIFEST).open("a") as file:
        file.write(line + "\n")
    found = verify(folder)
    assert (MANIFEST, "digests") in named(found, Kind.UNREADABLE)
    assert said in told(found)
    assert worst_code(found) == 5


def test_the_manifest_is_one_that_sha256sum_reads(tmp_path: Path) -> None:
    names = ["plain", "with space", "back\\slash", "new\nline", "deep/er"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_manifest(tmp_path)
    assert sorted(read_manifest(tmp_path)) == sorted(names)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", MANIFEST], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda text: text.replace('"check"', '"check": "host", "check"', 1), "stands twice"),
        (lambda text: text.replace('"summary": "', '"more": NaN, "summary": "', 1), "NaN is no number"),
        (lambda text: text.replace('"summary": "', '"more": 1e999, "summary": "', 1), "out of range"),
        (lambda text: text[: len(text) // 2], "not JSON"),
    ],
    ids=["two keys", "NaN", "huge", "cut"],
)
def test_an_outcome_that_cannot_be_read_is_said_to_be(copy: Any, forge: Callable[[str], str], said: str) -> None:
    folder = copy("faults-logits")
    file = folder / "faults-logits.outcome.json"
    file.write_text(forge(file.read_text()))
    write_manifest(folder)
    found = verify(folder)
    assert said in told(found)
    assert worst_code(found) == 5


def test_a_pipe_in_place_of_a_file_hangs_nobody(copy: Any) -> None:
    folder = copy("faults-logits")
    (folder / "faults-logits.ipynb").unlink()
    os.mkfifo(folder / "faults-logits.ipynb")
    assert ("faults-logits.ipynb", "") in named(verify(folder))


def lay(folder: Path, evidence: PcieEvidence, name: str = "pcie") -> Path:
    """Lay an outcome of made-up evidence and its readings into a folder, as a run leaves them."""
    link = evidence.link
    rounds = [
        replace(one, samples_s=(one.nbytes / one.bytes_per_s,)) for one in (*link.ceilings, link.ceiling_after) if one
    ]
    evidence = replace(evidence, link=replace(link, ceilings=tuple(rounds[:-1]), ceiling_after=rounds[-1]))
    facts = {"params": evidence.params.model_dump(mode="json"), "environment": {}, "started_at": ""}
    conclude(ANATOMY, evidence, facts).save(folder / f"{name}{OUTCOME}")
    assert evidence.series is not None
    save_trace(evidence.series, folder / f"{name}.samples.csv.gz")
    write_manifest(folder)
    return folder


@pytest.mark.parametrize(
    "evidence",
    [make_evidence(), make_evidence(make_series(0.5 * FULL_RATE)), make_noisy_evidence(3)],
    ids=["full", "half", "noisy"],
)
def test_what_this_version_judges_is_judged_alike_from_its_readings(tmp_path: Path, evidence: PcieEvidence) -> None:
    found = verify(lay(tmp_path, evidence))
    assert told(found) == ""
    assert ("pcie.outcome.json", "counted_is_possible") in named(found, Kind.AGREES)


def test_an_outcome_beside_the_readings_of_another_run_disagrees(tmp_path: Path) -> None:
    lay(tmp_path, make_evidence())
    half = make_evidence(make_series(0.5 * FULL_RATE))
    assert half.series is not None
    save_trace(half.series, tmp_path / "pcie.samples.csv.gz")
    found = named(verify(tmp_path))
    assert {("pcie.outcome.json", "rx_of_ceiling"), ("pcie.outcome.json", "bytes.counted")} <= found


def test_readings_that_were_changed_together_with_all_that_follows_are_believed_and_said_to_be(tmp_path: Path) -> None:
    """Beyond reach: whoever judges forged readings by our own code has a folder in which all agrees."""
    found = verify(lay(tmp_path, make_evidence(make_series(0.5 * FULL_RATE))))
    assert told(found) == ""
    assert any("word" in finding.why for finding in found if finding.kind is Kind.BELIEVED)


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("agents-many", lambda data: data["timings"]["crowd"]["wakes"][3].update(wake_s=9.0), "crowd.wake_p99_s"),
        ("agents", lambda data: data["timings"]["sleeps"][1]["restore"].update(digest_in="0"), "digest_equal"),
        ("agents", lambda data: row(data, "kv_in_on_link").update(observed=1.2), "kv_in_on_link"),
        ("logits", lambda data: row(data, "l2_per_position").update(observed=0.05, status="PASS"), "l2_per_position"),
        ("logits", lambda data: data["measurements"]["statistics"]["decode"]["difference_histogram"].update(zero=7),
         "statistics.decode"),
        ("faults-logits", lambda data: data["measurements"]["faults"][0].update(alarms=[]), ""),
        ("pcie-ring", lambda data: data["measurements"]["windows"]["tx_mb_per_s"].__setitem__(7, 1),
         "windows.tx_mb_per_s[7]"),
        ("pcie-ring", lambda data: data["measurements"]["link"]["ceilings"][0].update(bytes_per_s=6e10),
         "link.ceilings"),
        ("pcie-ring", lambda data: row(data, "time_per_pass_vs_limit").update(observed=0.9999), ""),
    ],
)  # fmt: skip
def test_one_number_that_is_changed_is_named(copy: Any, name: str, change: Callable[[Data], Any], what: str) -> None:
    folder = copy(name)
    edit(folder, name, change)
    found = verify(folder)
    assert worst_code(found) == 1
    assert not what or (f"{name}{OUTCOME}", what) in named(found)


def test_a_notebook_that_shows_another_outcome_is_named_with_the_place(copy: Any) -> None:
    folder = copy("faults-logits")
    edit(folder, "faults-logits", lambda data: data.update(summary="caught 19 of 18"))
    assert named(verify(folder)) == {("faults-logits.ipynb", "summary")}


def test_params_that_are_changed_are_named(copy: Any) -> None:
    folder = copy("logits-7b")
    file = folder / "logits-7b.params.yaml"
    file.write_text(re.sub(r"^prompts: \d+", "prompts: 999", file.read_text(), flags=re.MULTILINE) + "\nseed: 77\n")
    write_manifest(folder)
    assert ("logits-7b.params.yaml", "seed") in named(verify(folder))
    file.write_text("seeds: 0\n")
    assert ("logits-7b.params.yaml", "seeds") in named(verify(folder))
    file.write_text("prompts: 2026-11-28\n")  # what no version reads
    assert ("logits-7b.params.yaml", "prompts") in named(verify(folder))
    file.write_text("{}")  # asks for the defaults: another version's may have been what the outcome ran with
    found = verify(folder)
    assert ("logits-7b.params.yaml", "model") in named(found, Kind.BELIEVED)
    assert not [finding for finding in found if finding.what == "params"]


def test_lines_that_end_otherwise_in_samples_are_told_from_lines_that_are_missing(tmp_path: Path) -> None:
    whole().save(tmp_path / f"logits{OUTCOME}")
    file = tmp_path / "logits.samples.criteria.csv"
    made = list_frames(whole())["criteria"].to_csv(index=False).encode()
    for other in (made.replace(b"\n", b"\r\n"), made.rstrip(b"\n")):
        file.write_bytes(other)
        assert "has other ends of lines" in told(verify(tmp_path))
    file.write_bytes(made[: made.rstrip(b"\n").rindex(b"\n") + 1])
    assert "there are" in told(verify(tmp_path))
    file.write_bytes(made)
    assert told(verify(tmp_path)) == ""


def test_a_folder_of_recordings_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole().save(tmp_path / f"logits{OUTCOME}")
    assert main(["verify", str(tmp_path), "--no-pages", "--traces", str(tmp_path / "none")]) == 2
    assert "expected a folder of recordings" in capsys.readouterr().err


def test_shards_that_cannot_be_read_or_left_nothing_are_named(tmp_path: Path) -> None:
    whole().save(tmp_path / f"logits@node-1{OUTCOME}")
    jobs = (("logits", 1), ("other", 2))
    write_splits(tmp_path, [Split(suite="nightly", of=2, jobs=jobs, digest="0" * 16, ran=(1,))])
    assert told(verify(tmp_path)) == ""
    write_splits(tmp_path, [Split(suite="nightly", of=2, jobs=jobs, digest="0" * 16, ran=(1, 2))])
    assert "nightly: a shard ran, and there is no outcome of other" in told(verify(tmp_path))
    (tmp_path / SHARDS).write_text("{}")
    assert (SHARDS, "shards") in named(verify(tmp_path), Kind.UNREADABLE)


def test_a_page_that_no_outcome_gives_and_a_name_that_is_not_utf8_are_named(tmp_path: Path) -> None:
    whole().save(tmp_path / f"logits{OUTCOME}")
    write_index(tmp_path)
    for name in ("league.html", "servers.html"):
        (tmp_path / name).write_text("<p>we lead</p>")
        assert (name, "page") in named(verify(tmp_path, pages=True))
    shutil.copy(tmp_path / f"logits{OUTCOME}", tmp_path / os.fsdecode(b"\xff" + OUTCOME.encode()))
    assert (f"\\udcff{OUTCOME}", "") in named(verify(tmp_path, pages=True), Kind.UNREADABLE)


def test_measurements_that_no_run_leaves_are_said_to_be_unreadable(copy: Any) -> None:
    folder = copy("pcie-ring")
    edit(folder, "pcie-ring", lambda data: data["measurements"]["link"]["ceilings"][0].update(nbytes=0))
    assert ("pcie-ring.outcome.json", "measurements") in named(verify(folder), Kind.UNREADABLE)


def test_a_host_is_judged_again_on_its_recording(tmp_path: Path) -> None:
    outcome = make_host(tmp_path)
    found = verify(tmp_path)
    assert told(found) == ""
    assert ("host.outcome.json", "figures.alone_h2d") in named(found, Kind.AGREES)
    measured = json.loads((tmp_path / "host.outcome.json").read_text())
    measured["measurements"]["figures"]["alone_h2d"] *= 1.05
    (tmp_path / "host.outcome.json").write_text(json.dumps(measured))
    assert named(verify(tmp_path)) == {("host.outcome.json", "figures.alone_h2d")}
    assert outcome.check == "host"


def make_host(folder: Path) -> Outcome:
    """Lay a host's outcome and its recording into a folder, of evidence that is made to measure."""
    evidence = make_host_evidence()
    facts = {"params": evidence.params.model_dump(mode="json"), "environment": {}, "started_at": ""}
    outcome = conclude(HOST, evidence, facts)
    outcome.save(folder / "host.outcome.json")
    save_recording(evidence, folder / "host.samples.json.gz")
    return outcome


def test_a_crate_is_held_against_the_files_and_leads_nowhere_else(tmp_path: Path) -> None:
    whole().save(tmp_path / "logits.outcome.json")
    write_index(tmp_path)
    finished, file = read_finished(tmp_path), tmp_path / "ro-crate-metadata.json"
    title, text = read_title(tmp_path), file.read_text()
    assert title == tmp_path.name
    assert {finding.kind for finding in verify_crate(tmp_path, finished, title)} == {Kind.AGREES}
    for old, new, said in (
        ('"index.html"', '"../index.html"', "leads out of the folder"),
        ('"index.html"', '"absent.html"', "there is no such file"),
        ('"contentSize": "', '"contentSize": "1', "bytes, and the file has"),
        ("CompletedActionStatus", "FailedActionStatus", "actionStatus is"),
    ):
        assert old in text
        file.write_text(text.replace(old, new))
        assert said in told(list(verify_crate(tmp_path, finished, title)))
    file.write_text(text.replace('"@id"', '"@id": "x", "@id"', 1))
    assert "stands twice" in told(list(verify_crate(tmp_path, finished, title)))


def test_run_render_and_slim_keep_the_manifest_true(tmp_path: Path) -> None:
    whole().save(tmp_path / "logits.outcome.json")
    (tmp_path / "README.md").write_text("mine\n")
    write_manifest(tmp_path)
    (tmp_path / "README.md").write_text("changed\n")
    assert main(["sign", str(tmp_path)]) == 0
    write_index(tmp_path)
    assert sorted(read_manifest(tmp_path)) == [
        "README.md",
        "index.html",
        "logits.outcome.json",
        "ro-crate-metadata.json",
    ]
    slim_notebooks(tmp_path)
    assert not list(list_changes(tmp_path, read_manifest(tmp_path)))


def test_the_command_says_what_it_found_also_as_json(copy: Any, tmp_path: Path, capsys: Any) -> None:
    folder = copy("faults-logits")
    assert main(["verify", str(folder), "--no-pages", "--json", str(tmp_path / "found.json")]) == 0
    assert "0 disagrees" in capsys.readouterr().out
    findings = json.loads((tmp_path / "found.json").read_text())["findings"]
    assert {"kind", "file", "what", "why"} == findings[0].keys()
    (folder / "faults-logits.params.yaml").unlink()
    assert main(["verify", str(folder), "--no-pages"]) == 1
    assert "faults-logits.params.yaml: digest: is gone" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "nothing")]) == 2
