"""A run's files are its own whatever its name, and an outcome that cannot be read is named wherever a folder is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from djinn_checks.cli import main
from djinn_checks.errors import IncompleteError, RunnerError
from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.crate import FILE_NAME
from djinn_checks.suite import folder as folders
from djinn_checks.suite.files import is_file_of, list_files
from djinn_checks.suite.folder import render_folder, set_aside, slim_notebooks, write_index
from djinn_checks.suite.storage import clear
from tests.report import samples
from tests.whole import whole

ENDINGS = (
    "outcome.json",
    "html",
    "ipynb",
    "params.yaml",
    "log",
    "samples.csv.gz",
    "samples.0.csv.gz",
    "samples.windows.csv",
)
NAMES = ("pcie-v1", "pcie-v1.2", "pcie-a", "pcie-[ab]", "pcie-*", "pcie-?", "pcie", "pcie.samples", "pcie.outcome.json")


@cache
def finished_run() -> str:
    """Return an executed notebook as text."""
    return json.dumps(samples.executed_notebook(samples.passed()))


def fill(folder: Path, *names: str) -> Path:
    """Write all that a run can leave, for each name."""
    folder.mkdir(exist_ok=True)
    for name in names:
        for ending in ENDINGS:
            (folder / f"{name}.{ending}").write_text("{}")
        (folder / f"{name}.ipynb").write_text(finished_run())
        whole().save(folder / f"{name}.outcome.json")
    return folder


def test_the_files_of_a_run_are_its_own_whatever_its_name(tmp_path: Path) -> None:
    fill(tmp_path, *NAMES)
    for name in NAMES:
        assert {file.name for file in list_files(tmp_path, name)} == {f"{name}.{ending}" for ending in ENDINGS}
    for file in tmp_path.iterdir():
        assert len([name for name in NAMES if is_file_of(name, file.name)]) == 1, file.name
    for name in NAMES:
        before = set(tmp_path.iterdir())
        clear(name, tmp_path)
        assert {file.name for file in before - set(tmp_path.iterdir())} == {f"{name}.{end}" for end in ENDINGS}


def test_front_page_and_crate_give_each_run_its_own_files(tmp_path: Path) -> None:
    write_index(fill(tmp_path, *NAMES))
    graph = json.loads((tmp_path / FILE_NAME).read_text())["@graph"]
    results = [result["@id"] for action in graph if action["@type"] == "CreateAction" for result in action["result"]]
    assert len(results) == len(set(results)) == len(NAMES) * (len(ENDINGS) - 1)  # the notebook is the instrument


def test_a_second_run_sets_all_files_aside_once_whatever_their_names(tmp_path: Path) -> None:
    out = fill(tmp_path / "out", *NAMES)
    target = set_aside(out)
    assert target is not None
    assert len(list(target.iterdir())) == len(NAMES) * len(ENDINGS)
    assert [file.name for file in out.iterdir()] == ["earlier"]


def test_what_cannot_be_set_aside_as_a_whole_stays_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = fill(tmp_path / "out", "pcie", "pcie-a")
    before, rename = sorted(out.iterdir()), Path.rename

    def stuck(self: Path, target: Path) -> Path:
        if self.name == "pcie-a.log" and "earlier" in str(target):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(OSError, match="Input/output"):
        set_aside(out)
    assert [file for file in sorted(out.iterdir()) if file.name != "earlier"] == before


@pytest.fixture
def torn(tmp_path: Path) -> Path:
    """A folder of a good outcome, one of a newer schema, one cut short, and one whose name is not UTF-8."""
    out = fill(tmp_path / "out", "pcie", "pcie-new", "pcie-cut")
    newer = json.loads((out / "pcie-new.outcome.json").read_text()) | {"schema": "djinn-checks/outcome/99"}
    (out / "pcie-new.outcome.json").write_text(json.dumps(newer))
    text = (out / "pcie-cut.outcome.json").read_text()
    (out / "pcie-cut.outcome.json").write_text(text[: len(text) // 2])
    shutil.copy(out / "pcie.outcome.json", os.fsdecode(os.fsencode(out) + b"/pcie-\xff.outcome.json"))
    return out


SENTENCES = ("pcie-new.outcome.json cannot be read", "pcie-cut.outcome.json cannot be read", "is not UTF-8; rename it")


def test_outcomes_that_cannot_be_read_are_named_by_render_and_on_the_front_page_and_in_the_crate(
    torn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in torn.glob("*.html"):
        file.write_text("old")
    assert main(["render", str(torn)]) == 5
    said = capsys.readouterr()
    page, crate = (torn / "index.html").read_text(), (torn / FILE_NAME).read_text()
    for sentence in SENTENCES:
        assert sentence in said.err
        assert sentence in page
        assert sentence in json.loads(crate)["@graph"][0].get("description", "") + crate
    assert "3 outcomes cannot be read, which counts as ERROR" in page
    assert 'class="status error"' in page or "ERROR" in page.partition("on the whole")[0]
    assert str(torn / "pcie.html") in said.out
    assert (torn / "pcie.html").read_text() != "old", "the rest is done"
    assert (torn / "pcie-new.html").read_text() == "old"
    assert '"pcie-new.html"' in crate
    with pytest.raises(IncompleteError):
        render_folder(torn)


def test_outcomes_that_cannot_be_read_are_named_by_results_and_compare(
    torn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["results", str(torn)]) == 5
    said = capsys.readouterr()
    for sentence in SENTENCES:
        assert sentence in said.out
        assert sentence in said.err
    assert "**PASS**" in said.out
    good = fill(tmp_path / "good", "pcie", "pcie-new", "pcie-cut")
    for old, new in ((torn, good), (good, torn), (torn, torn)):
        assert main(["compare", str(old), str(new), "--html", str(tmp_path / "page.html")]) == 5
        said = capsys.readouterr()
        assert all(sentence in said.err for sentence in SENTENCES)
        assert "cannot be read: 3" in said.out
        assert "lacking" not in said.out
        assert "What cannot be read" in (tmp_path / "page.html").read_text()


def test_an_outcome_that_has_no_page_is_named_and_all_others_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, render = fill(tmp_path / "out", "pcie", "pcie-odd"), folders.render_html

    def picky(notebook: object, outcome: Outcome, note: object, **others: str) -> str:
        if outcome.summary == "odd":
            raise KeyError("windows")
        return render(notebook, outcome, note, **others)

    whole("pcie", summary="odd").save(out / "pcie-odd.outcome.json")
    (out / "pcie.html").unlink()
    monkeypatch.setattr(folders, "render_html", picky)
    with pytest.raises(IncompleteError, match=r"pcie-odd\.outcome\.json cannot be shown \(KeyError: 'windows'\)"):
        render_folder(out)
    assert (out / "pcie.html").is_file()
    assert (out / "index.html").is_file()


def test_slim_names_a_notebook_that_is_cut_short_does_the_others_and_touches_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = fill(tmp_path / "out", "pcie", "pcie-cut", "pcie-empty", "pcie-unread")
    figure = new_output("display_data", {"text/plain": "x", "text/html": "y" * 20_000})
    bulky = new_notebook(cells=[new_code_cell("draw()", outputs=[figure])])
    for name in ("pcie", "pcie-unread", "readers-own"):
        (out / f"{name}.ipynb").write_text(json.dumps(bulky))
    (out / "pcie-cut.ipynb").write_text(json.dumps(bulky)[:500])
    (out / "pcie-empty.ipynb").write_text("")
    (out / "pcie-unread.outcome.json").write_text("{")
    assert main(["slim", str(out)]) == 5
    said = capsys.readouterr()
    for name in ("pcie-cut.ipynb", "pcie-empty.ipynb", "pcie-unread.outcome.json"):
        assert name in said.err
    assert f"{out}: " in said.out
    assert " less" in said.out
    sizes = {name: (out / f"{name}.ipynb").stat().st_size for name in ("pcie", "pcie-unread", "readers-own")}
    assert sizes["pcie"] < 20_000 < sizes["pcie-unread"], "figures that only the notebook holds stay"
    assert sizes["readers-own"] > 20_000


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A finished suite on a disk that cannot be written."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    fill(place, "pcie", "pcie-a")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("command", ["render", "slim"])
def test_a_folder_that_cannot_be_written_is_a_sentence(
    locked: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(locked)]) == 2
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err


@pytest.mark.parametrize("work", [render_folder, slim_notebooks], ids=["render", "slim"])
def test_a_file_that_cannot_be_replaced_is_a_sentence(
    tmp_path: Path, work: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders, "write_atomically", refused)
    with pytest.raises(RunnerError, match=r"cannot be written \(Permission denied\)"):
        work(fill(tmp_path, "pcie"))  # type: ignore[operator]
