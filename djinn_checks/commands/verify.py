"""`djinn-checks verify`: a folder that somebody else made, held against itself."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands
    from djinn_checks.verify.finding import Finding

_SCHEMA = "djinn-checks/verification/1"
_AT_ONCE = 4
"""Things of one file that agree, on a line."""


def add_verify(commands: Commands) -> None:
    """Add `verify` to the commands of a parser."""
    verify = commands.add_parser(
        "verify", help="derive again what a finished suite's folder says, and tell what agrees"
    )
    verify.add_argument("folder", type=Path)
    verify.add_argument("--traces", type=Path, metavar="FOLDER", help="where the recordings lie that runs replayed")
    verify.add_argument(
        "--signers", type=Path, metavar="FILE", help="whose signature must be there: an allowed_signers file of ssh's"
    )
    verify.add_argument("--no-pages", action="store_true", help="do not render the pages anew, which takes longest")
    verify.add_argument("--all", action="store_true", help="list what agrees, too, and all that has to be believed")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write every finding as JSON, too")
    verify.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    from djinn_checks.errors import RunnerError
    from djinn_checks.verify.finding import Kind, worst_code
    from djinn_checks.verify.folder import verify_folder

    if options.traces is not None and not options.traces.is_dir():
        raise RunnerError(f"--traces {options.traces}: expected a folder of recordings, and there is none")
    chosen = {"traces": options.traces, "pages": not options.no_pages, "signers": options.signers}
    found = list(verify_folder(options.folder, **chosen))
    if options.json:
        _write(options.json, found)
    _print_all(found, Kind.AGREES, "Derived again, and the same", brief=not options.all)
    _print_all(found, Kind.BELIEVED, "Had to be believed", brief=not options.all)
    for kind, title in ((Kind.UNREADABLE, "Could not be read"), (Kind.DISAGREES, "DISAGREES")):
        _print_all(found, kind, title, brief=False)
    counts = Counter(finding.kind for finding in found)
    told = ", ".join(f"{counts[kind]:,} {kind}" for kind in Kind)
    print(make_visible(f"{options.folder}: {told}"))
    return worst_code(found)


def _print_all(found: Sequence[Finding], kind: str, title: str, *, brief: bool) -> None:
    chosen = [finding for finding in found if finding.kind == kind]
    if not chosen:
        return
    print(f"{title}:")
    if not brief:
        for finding in chosen:
            print(make_visible(f"  {finding.file}: {finding.what + ': ' if finding.what else ''}{finding.why}"))
        return
    files = dict.fromkeys(finding.file for finding in chosen)
    for file in files:
        things = list(dict.fromkeys(finding.what for finding in chosen if finding.file == file))
        more = f" and {len(things) - _AT_ONCE} more" if len(things) > _AT_ONCE else ""
        print(make_visible(f"  {file}: {', '.join(filter(None, things[:_AT_ONCE]))}{more}"))


def _write(file: Path, found: Sequence[Finding]) -> None:
    from dataclasses import asdict

    from djinn_checks.errors import RunnerError
    from djinn_checks.outcome import write_atomically

    data = {"schema": _SCHEMA, "findings": [asdict(finding) for finding in found]}
    try:
        write_atomically(file, json.dumps(data, indent=1) + "\n")
    except OSError as error:
        raise RunnerError(f"{file}: cannot be written ({error.strerror}); choose another with --json") from error
