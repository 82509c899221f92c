"""`djinn-checks run`: what may be asked of it, and the code that it exits with."""

from __future__ import annotations

import argparse
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from djinn_checks.argument_types import cluster_name, count, seconds, whole_seconds
from djinn_checks.commands.exit_codes import EXIT_CODES, exit_code
from djinn_checks.commands.gate import Gate, add_gate_options
from djinn_checks.commands.part import add_part_options, seeing_gpus
from djinn_checks.errors import RunnerError
from djinn_checks.loading import uncollected

if TYPE_CHECKING:
    from djinn_checks.commands import Commands
    from djinn_checks.suite.runner import Result


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
    add_gate_options(run)
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
    _refuse_what_does_not_go_together(options)
    with uncollected():
        from djinn_checks.report.suite.subjects import cast_runs
    gc.freeze()  # what was imported stays, and is no garbage to look for while pages are drawn

    name = options.suite.stem if options.suite.suffix else options.suite.resolve().name
    with Gate(name, junit=options.junit, summary=options.summary, strict=options.strict) as gate:
        results = _run_on_ray(options, gate) if options.on is not None else _run_here(options, gate)
    deciding = cast_runs({result.job.name: result.outcome for result in results}).deciding
    is_whole = not any(result.report_problem for result in results)
    return exit_code([outcome.status for outcome in deciding.values()], strict=options.strict, is_whole=is_whole)


def _refuse_what_does_not_go_together(options: argparse.Namespace) -> None:
    if options.on is None and options.retries:
        raise RunnerError("--retries: is for checks that are lost with their host, and goes with --on; see --resume")
    if options.on is not None and (options.shard is not None or options.gpu):
        raise RunnerError("--shard and --gpu: are for one host; with --on the hosts of the cluster share the suite")


def _run_here(options: argparse.Namespace, gate: Gate) -> list[Result]:
    with uncollected():
        from djinn_checks.commands.running import run_and_print

    with seeing_gpus(options.gpu):
        return run_and_print(
            options.suite, options.out, **_asked(options), shard=options.shard, gpus=len(options.gpu), gate=gate
        )


def _run_on_ray(options: argparse.Namespace, gate: Gate) -> list[Result]:
    from djinn_checks.commands.on_ray import run_on_ray_and_print

    return run_on_ray_and_print(
        options.suite, options.out, on=options.on, retries=options.retries, **_asked(options), gate=gate
    )


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    given = ("timeout_s", "cell_timeout_s", "suite_timeout_s")
    limits = {name: getattr(options, name.removesuffix("_s")) for name in given}
    return {"only": options.only, "given": options.given, "resume": options.resume, "limits": limits}
