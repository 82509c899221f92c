"""`djinn-checks preflight`: what the PCIe check needs of this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_preflight(commands: Commands) -> None:
    """Add `preflight` to the commands of a parser."""
    preflight = commands.add_parser(
        "preflight", help="look at what the PCIe check needs of this machine, and measure pinned bandwidth on every GPU"
    )
    preflight.set_defaults(command=_preflight)


def _preflight(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from djinn_checks.instruments.preflight_all import look_at_all

    rows = look_at_all()
    table = Table("", "what", "found", "wanted", "remedy", show_lines=True)
    for row in rows:
        word, style = {True: ("ok", "green"), False: ("missing", "bold red"), None: ("unknown", "yellow")}[row.ok]
        said = (Text(make_visible(text)) for text in (row.found, row.wanted, row.remedy))
        table.add_row(Text(word, style=style), row.name, *said)
    Console().print(table)
    return 1 if any(row.ok is False for row in rows) else 0
