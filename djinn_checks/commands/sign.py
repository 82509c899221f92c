"""`djinn-checks sign`: the digests of a folder's files, signed with an ssh key."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_sign(commands: Commands) -> None:
    """Add `sign` to the commands of a parser."""
    sign = commands.add_parser("sign", help="write the digests of a folder's files, and sign them with an ssh key")
    sign.add_argument("folder", type=Path)
    sign.add_argument("--key", type=Path, metavar="KEY", help="a private key of ssh's; without one nothing is signed")
    sign.set_defaults(command=_sign)


def _sign(options: argparse.Namespace) -> int:
    from djinn_checks.errors import RunnerError
    from djinn_checks.suite.files import list_names
    from djinn_checks.suite.manifest import write_manifest
    from djinn_checks.verify.signature import sign_folder

    if not list_names(options.folder):
        raise RunnerError(say_no_suite(options.folder))
    written = sign_folder(options.folder, options.key) if options.key else write_manifest(options.folder)
    print(make_visible(str(written)))
    return 0
