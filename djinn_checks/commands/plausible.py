"""`djinn-checks plausible`: whether a published figure can be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_plausible(commands: Commands) -> None:
    """Add `plausible` to the commands of a parser."""
    plausible = commands.add_parser("plausible", help="say whether a published figure can be; needs no GPU")
    plausible.add_argument("file", type=Path, help="YAML: the claim, weights, what stays on the device, link and time")
    plausible.set_defaults(command=_plausible)


def _plausible(options: argparse.Namespace) -> int:
    from djinn_checks.plausible import Answer, judge_figure, read_figure

    found = judge_figure(read_figure(options.file))
    print(make_visible("\n".join(found.lines)))
    return {Answer.POSSIBLE: 0, Answer.IMPOSSIBLE: 1, Answer.NOT_DECIDABLE: 3}[found.answer]
