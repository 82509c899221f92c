"""The command line: arguments and exit codes. All work is done elsewhere."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from types import FrameType

from djinn_checks.checks.plan import add_plan_command
from djinn_checks.commands.compare import add_compare
from djinn_checks.commands.exit_codes import EXIT_CODES
from djinn_checks.commands.faults import add_faults
from djinn_checks.commands.finished import add_finished
from djinn_checks.commands.merge import add_merge
from djinn_checks.commands.plausible import add_plausible
from djinn_checks.commands.preflight import add_preflight
from djinn_checks.commands.run import add_run
from djinn_checks.commands.serve import add_serve
from djinn_checks.errors import DjinnChecksError, IncompleteError
from djinn_checks.visible import make_visible

_COMMANDS = (
    add_run,
    add_preflight,
    add_faults,
    add_serve,
    add_compare,
    add_merge,
    add_finished,
    add_plausible,
    add_plan_command,
)
_INCOMPLETE, _CRASHED = 5, 6
_UNWRITTEN = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Why nothing more can be printed: nobody reads it, or the disk that it goes to is full or broken."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends nothing
    options = _parser().parse_args(arguments)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:  # nohup means what it says
            signal.signal(ending, _interrupt)
    try:
        code = int(options.command(options))
        sys.stdout.flush()  # what the code stands for has been said by then
        return code
    except IncompleteError as error:
        for line in error.done:
            print(make_visible(line))
        print(make_visible(f"djinn-checks: {error}; all else is done"), file=sys.stderr)
        return _INCOMPLETE
    except DjinnChecksError as error:
        print(make_visible(f"djinn-checks: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("djinn-checks: interrupted; finished checks are kept", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITTEN:
            return _crashed()
        _let_go_of_output()
        print(f"djinn-checks: {error.strerror}, where it writes or prints; not all is done", file=sys.stderr)
        return _INCOMPLETE
    except Exception:
        return _crashed()


def _crashed() -> int:
    print(make_visible(traceback.format_exc()), end="", file=sys.stderr)
    print("djinn-checks: crashed, which it should not; please report the lines above", file=sys.stderr)
    return _CRASHED


def _let_go_of_output() -> None:
    """Have what is printed from here on, and what the interpreter still writes at its end, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that running kernels are ended."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="djinn-checks",
        description="Decide whether streamed weights, a full PCIe link and a sleeping KV cache are what they claim.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"djinn-checks {version('djinn-checks')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        add_run,
        add_preflight,
        add_faults,
        add_serve,
        add_compare,
        add_merge,
        add_finished,
        add_plausible,
        add_plan_command,
    ):
        add(commands)
    return parser
