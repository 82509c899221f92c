"""`verify` holds a folder against itself: the published reports agree, and whatever is changed in a copy is named."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.suite.files import OUTCOME, list_files
from djinn_checks.suite.manifest import MANIFEST, read_manifest, write_manifest
from djinn_checks.verify.finding import Finding, Kind, worst_code
from djinn_checks.verify.folder import verify_folder

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
    assert {what for _, what in named(verify(folder))} == {"measurements", "criteria", "bytes.counted", "streams_the_model"}


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
    assert (f"pcie-ring.samples.csv.gz", "digest") in named(verify(folder))
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
