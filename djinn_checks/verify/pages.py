"""Pages against a new rendering from the outcomes and notebooks beside them.

The same code makes the same page, byte for byte, on any machine. Other code may draw a figure's shapes in another
order; a figure with the same shapes is the same. Any other difference is said with its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from djinn_checks.bounded import MOST_BYTES, read_bytes
from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.crate import FILE_NAME
from djinn_checks.report.svg import replace_addresses
from djinn_checks.suite.files import FinishedSuite
from djinn_checks.suite.folder import FRONT, describe_pages, in_parallel, render_report
from djinn_checks.verify.finding import Finding, agrees, disagrees, unreadable

_AROUND = 60
"""Characters that are quoted of the first difference."""


def verify_pages(folder: Path, outcomes: Mapping[str, Outcome]) -> Iterator[Finding]:
    """Hold the page of each outcome against a new rendering, on all cores."""
    names = [name for name in outcomes if (folder / f"{name}.html").exists()]
    for name, made in zip(names, in_parallel(partial(_render, folder, outcomes), names), strict=True):
        file = f"{name}.html"
        if isinstance(made, Path):
            continue
        yield _hold(folder, file, [made], f"a new rendering of {name}.outcome.json and its notebook")


def verify_front(folder: Path, finished: FinishedSuite, titles: list[str]) -> Iterator[Finding]:
    """Hold the pages about the whole folder against a new rendering under each of the titles it may have had."""
    made: dict[str, list[str]] = {}
    for title in titles:
        for file, page in describe_pages(folder, finished, title).items():
            made.setdefault(file, []).append(page)
    for file, pages in made.items():
        if file != FILE_NAME and (folder / file).exists():
            yield _hold(folder, file, pages, "a new rendering of all outcomes")
    for file in FRONT:
        if file not in made and (folder / file).exists():
            yield disagrees(file, "page", "no page of this name comes of the outcomes that are here")


def _render(folder: Path, outcomes: Mapping[str, Outcome], name: str) -> str:
    try:
        return render_report(folder / f"{name}.ipynb", outcomes[name], outcomes.values(), name=name)
    except Exception as error:  # a notebook from elsewhere may hold anything
        return f"{type(error).__name__}: {error}"


def _hold(folder: Path, file: str, made: list[str], source: str) -> Finding:
    try:
        page = read_bytes(folder / file, MOST_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        return unreadable(file, "page", str(error))
    if page in made:
        return agrees(file, "page", f"{source}, byte for byte")
    differences = [find_difference(page, one) for one in made]
    if not all(differences):
        return agrees(file, "page", f"{source}, but for the order in which a figure's shapes were drawn")
    return disagrees(file, "page", f"is not {source}: {differences[0]}")


def find_difference(page: str, made: str) -> str:
    """Return where a page is another than the one that was made; empty if only the order of shapes is."""
    (words, pictures), (again, drawn) = (replace_addresses(text, "data:image") for text in (page, made))
    if words != again:
        place = next((at for at, pair in enumerate(zip(words, again, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(words), len(again)) if place is None else place
        told, found = (text[max(0, at - 20) : at + _AROUND] for text in (words, again))
        line = words.count("\n", 0, at) + 1
        return f"line {line} has {told!r}, and not {found!r}"
    for number, (one, other) in enumerate(zip(pictures, drawn, strict=True), 1):
        if sorted(one.splitlines()) != sorted(other.splitlines()):
            return f"figure {number} is another"
    return ""
