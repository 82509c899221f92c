"""`djinn-checks run`: what may be asked of it, and the code that it exits with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from djinn_checks.argument_types import cluster_name, count, seconds, whole_seconds
from djinn_checks.commands.exit_codes import EXIT_CODES, exit_code
from djinn_checks.commands.part import add_part_options, seeing_gpus
from djinn_checks.errors import RunnerError

if TYPE_CHECKING:
    from djinn_checks.commands import Commands


def add_run(commands: Commands) -> None:
    """Add `run` to the commands of a parser."""
    run = commands.add_parser(
        "run", help="run a suite", epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    run.add_argument("suite", type=Path, help="folder of params files, for example params/smoke, or one such file")
    run.add_argument(
        "--only", action="append", default=[], metavar="CHECK", help="run this check or file.yaml alone (repeatable)"
    )
    run.add_argument(
        "--set", action="append", default=[], dest="given", metavar="NAME=VALUE",
        help="give a parameter in place of what the files say, to each check that has it (repeatable): device=cuda:1",
    )  # fmt: skip
    run.add_argument("--out", type=Path, help="where reports go (default: reports/<name of the suite>)")
    limits = run.add_argument_group("time limits, in place of the suite's own (suite.yaml); what runs over is ERROR")
    limits.add_argument("--timeout", type=seconds, metavar="S", help="for each check (3600)")
    limits.add_argument("--cell-timeout", type=whole_seconds, metavar="S", help="for each cell of a notebook (none)")
    limits.add_argument(
        "--suite-timeout",
        type=seconds,
        metavar="S",
        help="for all checks together (none); those that it leaves no time for are not started",
    )
    run.add_argument("--strict", action="store_true", help="exit 3 if a check is INCONCLUSIVE")
    run.add_argument("--resume", action="store_true", help="run what is missing, an ERROR, or of other params")
    add_part_options(run)
    _add_cluster_options(run)
    run.set_defaults(command=_run)


def _add_cluster_options(run: argparse.ArgumentParser) -> None:
    cluster = run.add_argument_group("on other hosts")
    cluster.add_argument(
        "--on", type=cluster_name, metavar="ray[://HOST:PORT]", help="have a Ray cluster run it (docs/clusters.md)"
    )
    cluster.add_argument(
        "--retries", type=count, default=0, metavar="N",
        help="how often a check is tried again that was lost with its host (0); what a check found is never",
    )  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    given = ("timeout_s", "cell_timeout_s", "suite_timeout_s")
    limits = {name: getattr(options, name.removesuffix("_s")) for name in given}
    asked = {"only": options.only, "given": options.given, "resume": options.resume, "limits": limits}
    _refuse_what_does_not_go_together(options)
    if options.on is not None:
        from djinn_checks.commands.on_ray import run_on_ray_and_print

        results = run_on_ray_and_print(options.suite, options.out, on=options.on, retries=options.retries, **asked)
    else:
        from djinn_checks.commands.running import run_and_print

        with seeing_gpus(options.gpu):
            results = run_and_print(options.suite, options.out, **asked, shard=options.shard, gpus=len(options.gpu))
    return exit_code([result.outcome.status for result in results], strict=options.strict)


def _refuse_what_does_not_go_together(options: argparse.Namespace) -> None:
    if options.on is None and options.retries:
        raise RunnerError("--retries: is for checks that are lost with their host, and goes with --on; see --resume")
    if options.on is not None and (options.shard is not None or options.gpu):
        raise RunnerError("--shard and --gpu: are for one host; with --on the hosts of the cluster share the suite")
