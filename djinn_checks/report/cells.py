"""A notebook's figures and tables made anew from an outcome, without a kernel and without running its code.

The notebooks show each figure and table by a call of one line: `show_figure(*plot_kl(outcome))`,
`tabulate_prompts(outcome)`. Such a call is read, never executed: its name has to be one of this folder's functions
that draw or tabulate an outcome, its arguments the outcome and plain constants. So a page depends on the outcome
alone, an old one gets the figures of today, and a notebook from someone else runs nothing here.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from djinn_checks.outcome import Outcome
from djinn_checks.report.html import render_figure
from djinn_checks.report.tables import Html, render_problem

_ROOM = "djinn_checks.report."
_DRAWS = re.compile(r"plot_\w+")
_TABULATES = re.compile(r"tabulate_\w+|render_params|render_environment")
_FIGURE = "show_figure"

Call = tuple[str, tuple[Any, ...]]
"""Name of a function, and what stands after the outcome in its arguments."""


def find_homes(notebook: Mapping[str, Any]) -> dict[str, str]:
    """Return where a notebook imports its drawing functions from: module by name, this folder's alone."""
    homes: dict[str, str] = {}
    for cell in notebook["cells"]:
        for node in _statements(cell) if cell["cell_type"] == "code" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_ROOM) and not node.level:
                homes |= {alias.name: str(node.module) for alias in node.names if alias.asname is None}
    return homes


def redraw(cell: Mapping[str, Any], homes: Mapping[str, str], outcome: Outcome) -> Html | None:
    """Return what a cell shows of the outcome; None if it is no call that draws or tabulates it.

    Args:
        homes: as `find_homes` returns them.
    """
    statements = _statements(cell)
    value = statements[0].value if len(statements) == 1 and isinstance(statements[0], ast.Expr) else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Name) or value.keywords:
        return None
    drawn = _drawn(value)
    call = _read_call(drawn or value, _DRAWS if drawn else _TABULATES)
    if call is None or call[0] not in homes:
        return None
    return _make(_find(homes[call[0]], call[0]), (outcome, *call[1]))


def _statements(cell: Mapping[str, Any]) -> list[ast.stmt]:
    try:
        return ast.parse("".join(cell["source"])).body
    except (SyntaxError, ValueError):  # a magic of IPython, or no Python at all
        return []


def _drawn(call: ast.Call) -> ast.Call | None:
    """Return the call whose figure a `show_figure(*call)` shows."""
    named = isinstance(call.func, ast.Name) and call.func.id == _FIGURE
    one = call.args[0] if named and len(call.args) == 1 else None
    return one.value if isinstance(one, ast.Starred) and isinstance(one.value, ast.Call) else None


def _read_call(call: ast.Call, kind: re.Pattern[str]) -> Call | None:
    if not isinstance(call.func, ast.Name) or not kind.fullmatch(call.func.id) or call.keywords or not call.args:
        return None
    first, *others = call.args
    if not isinstance(first, ast.Name) or first.id != "outcome":
        return None
    if not all(isinstance(one, ast.Constant) for one in others):
        return None
    return call.func.id, tuple(one.value for one in others if isinstance(one, ast.Constant))


def _find(module: str, name: str) -> Callable[..., Any] | None:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:  # a notebook of another version
        return None


def _make(function: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> Html | None:
    """Return the figure or table as markup; an outcome of another version may lack what one of them needs."""
    if function is None:
        return None
    try:
        made = function(*arguments)
    except Exception as error:
        return render_problem(f"{function.__name__} could not be made of this outcome: {type(error).__name__}: {error}")
    return made if isinstance(made, Html) else render_figure(*made)
