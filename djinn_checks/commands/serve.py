"""`djinn-checks serve`: a model is served to agents that sleep and wake."""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING

from djinn_checks.loading import uncollected
from djinn_checks.server.arguments import add_serve_arguments
from djinn_checks.server.listening import listen
from djinn_checks.server.options import ServeOptions

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_serve(commands: Commands) -> None:
    """Add `serve` to the commands of a parser."""
    serve = commands.add_parser("serve", help="serve a model to agents that sleep and wake")
    add_serve_arguments(serve)
    serve.set_defaults(command=_serve)


def _serve(options: argparse.Namespace) -> int:
    chosen = ServeOptions(**{name: value for name, value in vars(options).items() if name != "command"})
    bound = listen(chosen)  # importing what serves takes seconds: whatever can be refused is refused before
    with uncollected():
        from djinn_checks.server.serve import serve

    with contextlib.suppress(KeyboardInterrupt):  # it has ended its requests and let go of its memory by then
        serve(chosen, bound=bound)
    return 0
