"""A notebook's figures and tables made anew from an outcome, without a kernel and without running its code.

The notebooks show each figure and table by a call of one line: `show_figure(*plot_kl(outcome))`,
`tabulate_prompts(outcome)`. Such a call is read, never executed: its name has to stand in the package's own table of
drawings, its arguments have to be the outcome and plain constants. So a page depends on the outcome
alone, an old one gets the figures of today, and a notebook from someone else runs nothing here.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from djinn_checks.outcome import Outcome
from djinn_checks.report.drawings import FIGURES, FOR_PHONES, TABLES, find_drawing
from djinn_checks.report.tables import Html, render_problem
from djinn_checks.report.verdict import render_figure

_FIGURE = "show_figure"

Call = tuple[str, tuple[Any, ...]]
"""Name of a function, and what stands after the outcome in its arguments."""


def redraw(cell: Mapping[str, Any], outcome: Outcome) -> Html | None:
    """Return what a cell shows of the outcome; None if it is no call that draws or tabulates it."""
    call = find_call(cell)
    return None if call is None else _make(call[0], (outcome, *call[1]))


def names_drawing(cell: Mapping[str, Any]) -> str:
    """Return the name of the drawing of the outcome alone that a cell shows; empty if it shows none."""
    call = find_call(cell)
    return call[0] if call is not None and not call[1] else ""


def find_call(cell: Mapping[str, Any]) -> Call | None:
    """Return the call by which a cell draws or tabulates the outcome; None if it is no such cell."""
    statements = _statements(cell)
    value = statements[0].value if len(statements) == 1 and isinstance(statements[0], ast.Expr) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.keywords:
        return None
    drawn = _drawn(value)
    return _read_call(drawn or value, FIGURES if drawn else TABLES)


def _statements(cell: Mapping[str, Any]) -> list[ast.stmt]:
    try:
        return ast.parse("".join(cell["source"])).body
    except (SyntaxError, ValueError):  # a magic of IPython, or no Python at all
        return []


def _drawn(call: ast.Call) -> ast.Call | None:
    """Return the call whose figure a `show_figure(*call)` shows."""
    named = isinstance(call.func, ast.Name) and call.func.id == _FIGURE
    given = call.args[0] if named and len(call.args) == 1 else None
    return given.value if isinstance(given, ast.Starred) and isinstance(given.value, ast.Call) else None


def _read_call(call: ast.Call, known: Mapping[str, str]) -> Call | None:
    if not isinstance(call.func, ast.Name) or call.func.id not in known or call.keywords or not call.args:
        return None
    first, *others = call.args
    if not isinstance(first, ast.Name) or first.id != "outcome":
        return None
    if not all(isinstance(argument, ast.Constant) for argument in others):
        return None
    return call.func.id, tuple(argument.value for argument in others if isinstance(argument, ast.Constant))


def _make(name: str, arguments: tuple[Any, ...]) -> Html | None:
    """Return the figure or table as markup; an outcome of another version may lack what one of them needs."""
    try:
        made = find_drawing(name)(*arguments)
    except Exception as error:
        return render_problem(f"{name} could not be made of this outcome: {type(error).__name__}: {error}")
    return made if isinstance(made, Html) else render_figure(*made, for_phones=name in FOR_PHONES)
