"""`djinn-checks faults`: defects are planted, and told by what caught them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from djinn_checks.commands.exit_codes import exit_code
from djinn_checks.devices import DEVICE_NAMES
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from rich.table import Table

    from djinn_checks.commands import Commands
    from djinn_checks.faults.names import FaultName
    from djinn_checks.measurements.faults import FaultRow
    from djinn_checks.outcome import Outcome


def add_faults(commands: Commands) -> None:
    """Add `faults` to the commands of a parser."""
    faults = commands.add_parser("faults", help="plant defects, and see that the checks catch them on this machine")
    faults.add_argument("checks", nargs="*", metavar="check", help="only those of these: logits, pcie, agents, host")
    faults.add_argument("--fault", action="append", default=[], metavar="NAME", help="only this one")
    faults.add_argument("--list", action="store_true", help="print their names and what each breaks; plant none")
    faults.add_argument("--clean", type=int, default=3, metavar="N", help="runs of each check without a fault (3)")
    faults.add_argument("--doses", action="store_true", help="smaller doses too, for the smallest that is caught")
    faults.add_argument("--device", default="auto", help=DEVICE_NAMES)
    faults.set_defaults(command=_faults)


def _faults(options: argparse.Namespace) -> int:
    if options.list:
        return _list_faults(options)
    from rich.console import Console

    from djinn_checks.errors import ParamsError
    from djinn_checks.params import FaultsParams

    if len(options.fault) > 1:  # --only of `run` may be repeated, so somebody will try
        raise ParamsError(f"--fault: expected one name, got {', '.join(options.fault)}; run the command once for each")
    console = Console()
    params = FaultsParams.create(
        of=options.checks,
        fault=options.fault[0] if options.fault else "",
        clean_runs=options.clean,
        doses=options.doses,
        device=options.device,
    )
    _find_names(params.of, params.fault or None)
    from djinn_checks.faults.check import check_faults  # takes seconds: what is wrong was said by then
    from djinn_checks.report.faults.tables import list_faults

    outcome = check_faults(
        params, progress=lambda name, done, total: console.print(f"{done}/{total} {name}", highlight=False)
    )
    console.print(_caught_table(list_faults(outcome)), markup=False)
    if options.doses:
        console.print(_floors_table(outcome), markup=False)
    console.print(make_visible(f"{outcome.status}: {outcome.summary}"), highlight=False, markup=False)
    return exit_code([outcome.status], strict=True)


def _list_faults(options: argparse.Namespace) -> int:
    from djinn_checks.devices import is_device_name
    from djinn_checks.errors import ParamsError

    if not is_device_name(options.device):
        raise ParamsError(f"device: expected {DEVICE_NAMES}, got {options.device!r}")
    for fault in _find_names(options.checks, options.fault[0] if options.fault else None):
        print(make_visible(f"{fault.check}  {fault.name}  {fault.breaks}{_say_where(fault.devices, options.device)}"))
    return 0


def _find_names(checks: Sequence[str], name: str | None) -> list[FaultName]:
    from djinn_checks.faults.names import find_names

    def load() -> list[FaultName]:
        from djinn_checks.faults.catalogs import load_names  # takes seconds

        return load_names()

    return find_names(checks, name, load)


def _say_where(kinds: Sequence[str], device: str) -> str:
    """Return which devices a fault is for, if not for all; of a device that was named, that it is not for that one."""
    kind = device.partition(":")[0]
    if kind != "auto":
        return "" if kind in kinds else f"  [not on {kind}]"
    if len(kinds) > 1:
        return ""
    return "  [on a GPU only]" if "cuda" in kinds else "  [without a GPU only]"


def _table_of_names(*titles: str) -> Table:
    """Return a table that breaks what is too long and cuts nothing: names are given back to `--fault`."""
    from rich.table import Table

    table = Table(show_lines=True)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _caught_table(rows: Sequence[FaultRow]) -> Table:
    """Return what caught each fault; with the turns that it took, if agents said anything wrong."""
    has_turns = any(row.get("turns") is not None for row in rows)
    table = _table_of_names("fault", "verdict", "caught by", *(["turns"] if has_turns else []), "also alarmed")
    for row in rows:
        turns = row.get("turns")
        others = ", ".join(name for name in row["alarms"] if name != row["caught_by"])
        told = ["" if turns is None else str(turns)] if has_turns else []
        table.add_row(*map(make_visible, (row["name"], row["verdict"], row["caught_by"], *told, others)))
    return table


def _floors_table(outcome: Outcome) -> Table:
    from djinn_checks.report.faults.tables import list_floors

    table = _table_of_names("fault", "criterion", "smallest dose caught", "largest that escaped", "unit")
    for row in list_floors(outcome):
        table.add_row(*row)
    return table
