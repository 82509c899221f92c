"""`djinn-checks bundle`: a finished suite as one zip for an archive or a committee."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.visible import make_visible

if TYPE_CHECKING:
    from djinn_checks.commands import Commands

_MOST_TOLD = 20


def add_bundle(commands: Commands) -> None:
    """Add `bundle` to the commands of a parser."""
    bundle = commands.add_parser("bundle", help="pack a finished suite for an archive, without names of hosts or users")
    bundle.add_argument("folder", type=Path)
    bundle.add_argument("--out", type=Path, required=True, metavar="FILE", help="the zip to write")
    bundle.add_argument("--scrub", action="store_true", help="put stand-ins in place of names, in place of refusing")
    bundle.add_argument("--name", action="append", default=[], metavar="WORD", help="a name to look for, too")
    bundle.add_argument("--licence", type=Path, metavar="FILE", help="of the results; else the folder's, or Apache-2.0")
    bundle.add_argument("--url", default="", help="where the archive will be, for the appendix")
    bundle.set_defaults(command=_bundle)


def _bundle(options: argparse.Namespace) -> int:
    from djinn_checks.bundle.archive import bundle_folder

    made = bundle_folder(
        options.folder,
        options.out,
        scrub=options.scrub,
        words=options.name,
        licence=options.licence,
        url=options.url,
    )
    for named in made.named[:_MOST_TOLD]:
        print(make_visible(f"{named.place}: {named.kind}: {named.text}"))
    if made.named:
        more = f", of which {_MOST_TOLD} are listed" if len(made.named) > _MOST_TOLD else ""
        remedy = "take them out by hand" if options.scrub else "put stand-ins in their place with --scrub"
        print(f"{len(made.named):,} places name a host or a user{more}; nothing was written: {remedy}.")
        return 1
    told = f", {made.stand_ins:,} names replaced" if made.stand_ins else ""
    print(make_visible(f"{options.out}: {len(made.files):,} files{told}"))
    return 0
