"""`djinn-checks merge`: one folder of many, from shards or from several hosts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.errors import IncompleteError
from djinn_checks.units import format_count
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_merge(commands: Commands) -> None:
    """Add `merge` to the commands of a parser."""
    merge = commands.add_parser("merge", help="make one folder of shards, or of the same suite on several hosts")
    merge.add_argument(
        "folders", nargs="+", metavar="[HOST=]FOLDER",
        help="finished suites; HOST is what a folder's host is called where two have different runs of one name",
    )  # fmt: skip
    merge.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where all goes; must hold no run")
    merge.set_defaults(command=_merge)


def split_label(text: str) -> tuple[str, Path]:
    """Return the host and the folder of `host=folder`; no host where the text is a folder as a whole, or has no `=`."""
    host, sign, folder = text.partition("=")
    return (host, Path(folder)) if sign and folder and not Path(text).exists() else ("", Path(text))


def _merge(options: argparse.Namespace) -> int:
    from djinn_checks.suite.merge import Part, merge_folders

    named = map(split_label, options.folders)
    merged = merge_folders([Part(folder=folder, host=host) for host, folder in named], options.out)
    runs = f"{format_count(len(merged.runs), 'run')} of {format_count(len(options.folders), 'folder')}"
    said: Sequence[str] = [*merged.notes, f"{runs}, all on one page: {options.out / 'index.html'}"]
    if merged.problems:
        raise IncompleteError(merged.problems, said)
    for line in said:
        print(make_visible(line))
    return 0
