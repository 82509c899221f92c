"""The folder of a finished suite: outcomes read back, and every page made from them. Needs no torch.

A page depends on the outcome, and on the executed notebook beside it if there is one, so that it can be made anew
anywhere: figures and tables come from the outcome, the notebook adds its words, its code and what its cells said.
Where the folder holds an outcome of planted faults, a line about them stands in the reports of their checks.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nbformat

from djinn_checks.bounded import read_text
from djinn_checks.errors import IncompleteError, RunnerError
from djinn_checks.outcome import Outcome, write_atomically
from djinn_checks.report.faults.note import note_faults
from djinn_checks.report.notebook.export import render_html
from djinn_checks.report.notebook.fill import Figures
from djinn_checks.report.suite.crate import FILE_NAME, describe_folder
from djinn_checks.report.suite.index import render_index
from djinn_checks.report.suite.league import PAGE as LEAGUE
from djinn_checks.report.suite.league import render_league
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.report.suite.servers import PAGE as SERVERS
from djinn_checks.report.suite.servers import render_servers
from djinn_checks.suite.execution import find_notebook, is_notebook
from djinn_checks.suite.files import OUTCOME, FinishedSuite, list_files, list_names, read_finished
from djinn_checks.suite.manifest import MANIFEST, SIGNATURE, refresh_manifest
from djinn_checks.suite.shards import SHARDS
from djinn_checks.suite.texts import shorten
from djinn_checks.units import format_bytes

INDEX = "index.html"
FRONT = (INDEX, LEAGUE, SERVERS, FILE_NAME)
"""What stands in a folder about all of it."""
_BULKY = 10_000
"""Characters. The tables of a report have less, its figures ten times as much."""
_BRIEF = 200
"""Characters of another library's message that a sentence quotes."""


def render_report(
    notebook: Path | None,
    outcome: Outcome,
    beside: Iterable[Outcome] = (),
    *,
    name: str = "",
    figures: Figures | None = None,
) -> str:
    """Render the report.

    Args:
        notebook: as executed. Where there is none, the check's own stands in for it, and for a run that did not come
            to its end, nothing: the verdict is still shown.
        beside: the outcomes in the same folder, of which those of planted faults are mentioned.
        name: of the report, which then links back to the front page beside it.
        figures: gets those of the page.
    """
    make = partial(
        render_html, outcome=outcome, note=note_faults(outcome, beside), name=name, index=INDEX if name else ""
    )
    if notebook is not None and is_notebook(notebook):
        return make(notebook, figures=figures)
    if outcome.failure is None:
        with contextlib.suppress(RunnerError):  # a check that this version does not know
            return make(find_notebook(outcome.check))
    return make(nbformat.v4.new_notebook())


def render_fault_notes(folder: Path) -> list[Path]:
    """Render those reports anew that mention the planted faults of their check: most are older than those are."""
    outcomes = read_outcomes(folder)
    noted = [name for name, outcome in outcomes.items() if note_faults(outcome, outcomes.values())]
    pages = [_render(folder, outcomes, name) for name in noted]
    if pages:
        update_manifest(folder)
    return pages


def _render(folder: Path, outcomes: Mapping[str, Outcome], name: str) -> Path:
    page = render_report(folder / f"{name}.ipynb", outcomes[name], outcomes.values(), name=name)
    return write_atomically(folder / f"{name}.html", page)


def render_folder(folder: Path) -> list[Path]:
    """Rebuild every HTML report of a finished suite from its outcomes, and notebooks if there are. Needs no torch.

    Raises:
        RunnerError: the folder holds no outcome, or cannot be written.
        IncompleteError: an outcome cannot be read, or has no page. All other pages are there.
    """
    finished = _read_some(folder)
    with _saying_what_cannot_be_written(folder):
        made = in_parallel(partial(_try_render, folder, finished.outcomes), list(finished.outcomes))
        pages = [*(page for page in made if isinstance(page, Path)), write_index(folder)]
    problems = [*finished.unreadable.values(), *(page for page in made if isinstance(page, str))]
    if problems:
        raise IncompleteError([f"{folder}: {problem}" for problem in problems], map(str, pages))
    return pages


def render_names(folder: Path, names: Iterable[str]) -> list[str]:
    """Render the reports of these runs of a folder anew, and return what stands against those that have none."""
    outcomes = read_outcomes(folder)
    made = in_parallel(partial(_try_render, folder, outcomes), [name for name in names if name in outcomes])
    return [f"{folder}: {page}" for page in made if isinstance(page, str)]


def _try_render(folder: Path, outcomes: Mapping[str, Outcome], name: str) -> Path | str:
    """Return the page of an outcome, or why there is none."""
    try:
        return _render(folder, outcomes, name)
    except OSError:
        raise
    except Exception as error:
        return f"{name}{OUTCOME} cannot be shown ({type(error).__name__}: {error}); was it written by another version?"


def _read_some(folder: Path) -> FinishedSuite:
    finished = read_finished(folder)
    if not finished.outcomes and not finished.unreadable:
        raise RunnerError(say_no_suite(folder))
    return finished


@contextlib.contextmanager
def _saying_what_cannot_be_written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{folder}: cannot be written ({error.strerror or error}); change that, or work on a copy"
        raise RunnerError(message) from error


def in_parallel(work: Callable[[str], Path | str], names: list[str]) -> list[Path | str]:
    """Return what the work makes of each name, on all cores where processes start for nothing, as on Linux."""
    cores = min(len(names), os.cpu_count() or 1)
    if cores <= 1 or sys.platform != "linux":
        return [work(name) for name in names]
    with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("fork")) as pool:
        return list(pool.map(work, names))


def slim_notebooks(folder: Path) -> int:
    """Take large markup, figures above all, out of the executed notebooks of a suite; return the bytes that it saved.

    Words, code, small tables and the outcome stay. The pages do not change: their figures come from the outcomes.
    So a notebook whose outcome cannot be read is left as it is, and so is any that no run of the suite left.

    Raises:
        RunnerError: the folder holds no outcome, or cannot be written.
        IncompleteError: a notebook or an outcome cannot be read. All others are done.
    """
    finished = _read_some(folder)
    saved, problems = 0, list(finished.unreadable.values())
    for file in (folder / f"{name}.ipynb" for name in finished.outcomes):
        try:
            text = read_text(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{file.name} cannot be read ({error.strerror})")
            continue
        except ValueError:
            text = ""  # no UTF-8, and no notebook
        try:
            with _saying_what_cannot_be_written(folder):
                saved += _slim(file, text)
        except (ValueError, KeyError, AttributeError, TypeError) as error:  # what nbformat makes of a file cut short
            told = shorten(str(error).partition("\n")[0], _BRIEF)
            problems.append(f"{file.name} is no whole notebook ({type(error).__name__}: {told})")
    with _saying_what_cannot_be_written(folder):
        update_manifest(folder)
    if problems:
        told = f"{folder}: {format_bytes(saved)} less"
        raise IncompleteError([f"{folder}: {problem}" for problem in problems], [told])
    return saved


def _slim(file: Path, text: str) -> int:
    before, node = len(text.encode()), nbformat.reads(text, as_version=4)
    for output in (output for cell in node.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        if "text/plain" in data and len(data.get("text/html", "")) > _BULKY:
            del data["text/html"]
    return before - write_atomically(file, nbformat.writes(node) + "\n").stat().st_size


def read_outcomes(folder: Path) -> dict[str, Outcome]:
    """Return the outcomes in a folder by name; `read_finished` names those that cannot be read, too."""
    return read_finished(folder).outcomes


def write_index(folder: Path) -> Path:
    """Write `index.html` from the outcomes in a folder, and the description of all its files as an RO-Crate."""
    for name, page in describe_pages(folder, read_finished(folder), folder.resolve().name).items():
        write_atomically(folder / name, page)
    update_manifest(folder)
    return folder / INDEX


def update_manifest(folder: Path) -> Path:
    """Write the digests of what runs left in a folder, of its front pages, and of what its manifest lists already.

    Raises:
        OSError: the manifest cannot be written.
    """
    runs = [file.name for name in list_names(folder) for file in list_files(folder, name)]
    return refresh_manifest(folder, (*runs, *(name for name in (*FRONT, SHARDS) if (folder / name).is_file())))


def describe_pages(folder: Path, finished: FinishedSuite, title: str) -> dict[str, str]:
    """Return what stands in a folder about all of it, by the names of the files: front page, crate, league, servers."""
    names = [*finished.outcomes, *finished.unreadable]
    files = {
        name: {file.name: file.stat().st_size for file in list_files(folder, name) if file.is_file()} for name in names
    }
    try:
        return _summarize(title, finished, files)
    except Exception:  # one of them is of a shape that this version does not know; the others have their line
        return _summarize(title, _leave_out(title, finished, files), files)


def _summarize(title: str, finished: FinishedSuite, files: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """Return what is written of the folder as a whole, by the names of the files."""
    rows = (finished.outcomes, files, finished.unreadable)
    pages = {INDEX: render_index(title, *rows), FILE_NAME: describe_folder(title, *rows)}
    beside = {LEAGUE: render_league(title, finished.outcomes), SERVERS: render_servers(title, finished.outcomes)}
    return pages | {name: page for name, page in beside.items() if page is not None}


def _leave_out(title: str, finished: FinishedSuite, files: Mapping[str, Mapping[str, int]]) -> FinishedSuite:
    """Return a suite in which those outcomes that have no line on a front page count as unreadable."""
    shown, unreadable = {}, dict(finished.unreadable)
    for name, outcome in finished.outcomes.items():
        try:
            _summarize(title, FinishedSuite(outcomes={name: outcome}, unreadable={}), files)
            shown[name] = outcome
        except Exception as error:
            unreadable[name] = f"{name}{OUTCOME} cannot be shown ({type(error).__name__}: {error})"
    return FinishedSuite(outcomes=shown, unreadable=unreadable)


def set_aside(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """Move what an earlier suite left in a folder to `earlier/<when it ran>`, where its pages still work.

    Args:
        names: of the runs whose files are moved; None: everything, the front page included.

    Returns:
        Where it is now; None if there was nothing.

    Raises:
        OSError: it cannot be moved.
    """
    there = list_names(folder)
    moving = there if names is None else [name for name in names if name in there]
    left = [file for name in moving for file in list_files(folder, name)]
    if not left:
        return None
    if names is None:
        left += [folder / name for name in (*FRONT, SHARDS, MANIFEST, SIGNATURE) if (folder / name).is_file()]
    found = read_outcomes(folder)
    dates = [found[name].started_at for name in moving if name in found and found[name].started_at]
    when = re.sub(r"[^0-9T]", "", min(dates, default="undated").partition("+")[0]) or "undated"
    target = next(place for place in _places(folder / "earlier" / when) if not place.exists())
    target.mkdir(parents=True)
    moved: list[Path] = []
    try:
        for file in left:
            file.rename(target / file.name)
            moved.append(file)
    except OSError:
        for file in moved:  # all of it or nothing
            (target / file.name).rename(file)
        target.rmdir()
        raise
    return target


def _places(wanted: Path) -> Iterator[Path]:
    yield wanted
    yield from (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2))
