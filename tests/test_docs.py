"""What README, docs and the artifact appendix say is true: links lead somewhere, commands and examples run.

In fenced blocks of kind `sh` each line is a command; in `console` each line after `$ ` is one, and the others are its
output. A command runs, on the CPU, unless its comment begins with why not: "# needs a GPU", "# 4 minutes", "# keeps
running". "# exits with 1" says what is expected in place of 0. Blocks of kind `python` run too, unless
"<!-- not run: ... -->" stands above them.

All pages share one folder, so that a page finds what an earlier one has made, and a command that several pages show
is run once.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from djinn_checks.faults.base import find_faults

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "ARTIFACT.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORTS = sorted((ROOT / "reports").glob("**/README.md"))
MOST_README_BYTES = 10_000

BLOCK = re.compile(r"^(<!-- not run: .+ -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
COMMENT = re.compile(r"\s#\s.*$")
NOT_RUN = re.compile(r"\s*#\s(needs |keeps running\b|(\d+|some|half a) minutes?\b)")
EXITS = re.compile(r"\bexits with (\d+)( without a GPU)?")
_LONGEST_S = 600
"""For a command on a machine that others use as well; alone none takes a tenth of it."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of a shell, as a page shows it."""

    line: str
    comment: str

    @property
    def runs(self) -> bool:
        return NOT_RUN.match(self.comment) is None

    @property
    def exit_codes(self) -> set[int]:
        """The codes that it may end with; with a GPU, what is said of a machine without one need not hold."""
        found = EXITS.search(self.comment)
        if found is None:
            return {0}
        return {0, int(found[1])} if found[2] and torch.cuda.is_available() else {int(found[1])}


def blocks(page: Path, *kinds: str) -> Iterator[tuple[str, str]]:
    """Give the kind and the text of each fenced block of these kinds that is meant to run."""
    for not_run, kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind in kinds and not not_run:
            yield kind, text


def commands(page: Path) -> Iterator[Command]:
    for kind, text in blocks(page, "sh", "console"):
        for line in text.splitlines():
            if kind == "console":
                if not line.startswith("$ "):
                    continue
                line = line.removeprefix("$ ")
            comment = COMMENT.search(line)
            yield Command(line=COMMENT.sub("", line).strip(), comment=comment[0] if comment else "")


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like a checkout and may be written to."""
    made = tmp_path_factory.mktemp("checkout")
    for name in ("params", "notebooks", "tests/data/traces", "tests/data/host"):
        shutil.copytree(ROOT / name, made / name)
    for reports in (ROOT / "reports").glob("h*-*"):
        shutil.copytree(reports, made / "reports" / reports.name)
    return made


@pytest.fixture(scope="module")
def already_ran() -> set[str]:
    return set()


def environment() -> dict[str, str]:
    """Return the variables of an activated environment: this interpreter's commands, and this checkout's package."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def test_the_front_page_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= MOST_README_BYTES


@pytest.mark.parametrize("page", [*PAGES, *REPORTS], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(without_code(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no such file"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_page_is_in_the_index(page: Path) -> None:
    index = ROOT / "docs" / "README.md"
    assert page == index or f"]({page.name})" in index.read_text(encoding="utf-8")


def test_a_command_says_whether_it_runs_and_how_it_ends() -> None:
    assert not Command(line="", comment="# needs a GPU").runs
    assert not Command(line="", comment="# 4 minutes; all of them").runs
    assert not Command(line="", comment="# keeps running").runs
    assert Command(line="", comment="# what the PCIe check needs of this machine").runs
    assert Command(line="", comment="# exits with 1 without a GPU: what is needed").exit_codes >= {1}
    assert Command(line="", comment="# exits with 1: three must fail").runs
    assert Command(line="", comment="# exits with 1: three must fail").exit_codes == {1}
    assert Command(line="", comment="").exit_codes == {0}


@pytest.mark.timeout(4 * _LONGEST_S)
@every_page
def test_commands_run_as_written(page: Path, folder: Path, already_ran: set[str]) -> None:
    for command in commands(page):
        if not command.runs or command.line in already_ran:
            continue
        ran = subprocess.run(
            command.line, shell=True, executable="/bin/bash", cwd=folder, env=environment(),
            capture_output=True, text=True, timeout=_LONGEST_S, check=False,
        )  # fmt: skip
        assert ran.returncode in command.exit_codes, f"{command.line}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        already_ran.add(command.line)


@every_page
def test_examples_run_as_written(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for _, text in blocks(page, "python"):
        exec(compile(text, page.name, "exec"), names)
    if page.stem == "README" and page.parent == ROOT:
        said = " ".join(re.findall(r"prints `(.+?)`", page.read_text(encoding="utf-8"), re.DOTALL)[0].split())
        assert said in capsys.readouterr().out, "the page quotes what the example prints"


@pytest.mark.parametrize(("device", "place"), [("cpu", "{} defects are planted without"), ("cuda:0", "and {} on one")])
def test_the_front_page_counts_the_faults_as_they_are(device: str, place: str) -> None:
    applicable = [fault for fault in find_faults([], None) if fault.applies(torch.device(device))]
    assert place.format(len(applicable)) in (ROOT / "README.md").read_text(encoding="utf-8")
