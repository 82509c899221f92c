"""The host check: every link of a host alone and all at once, as somebody looks at it who accepts a machine.

One process drives each link, one process reads the counters of all, and this one tells them what to do and waits for
none longer than it should. All host memory is pinned before the first stage: a process that pins keeps the readings of
all others waiting. Without a GPU links within host memory stand in, as many as asked for, and nothing is decided about
this machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from djinn_checks.checks.conclude import Anatomy, Facts, conclude, conclude_early
from djinn_checks.checks.fleet import Fleet
from djinn_checks.checks.host.criteria import GPUS_FREE, judge_evidence
from djinn_checks.checks.host.evidence import HostEvidence, Seen
from djinn_checks.checks.host.expectation import check_expected, expect_figures
from djinn_checks.checks.host.measurements import gather_measurements, summarize
from djinn_checks.checks.host.plan import HostPlan, plan_gpus, plan_stand_ins
from djinn_checks.checks.host.recording import load_recording, save_recording
from djinn_checks.checks.host.stages import PEERS, Runner
from djinn_checks.checks.settle import Clock, Progress, no_progress, read_environment
from djinn_checks.devices import choose_device
from djinn_checks.errors import ParamsError, SystemUnavailableError
from djinn_checks.instruments.gpus import find_gpus
from djinn_checks.instruments.many_counters import ManyCounters
from djinn_checks.outcome import Failure, Outcome, Row, Status
from djinn_checks.params import HostParams
from djinn_checks.units import MIB

ANATOMY = Anatomy(
    check="host", judge_evidence=judge_evidence, gather_measurements=gather_measurements, summarize=summarize
)
_START_S = 180.0
"""For all processes to be ready: the first import of PyTorch on a cold disk, and a context on each GPU."""
_IDLE_S = 0.3
_HEALTH_S = 0.5
"""Between two looks at a link's health; three at least in each stage."""
_PEER_MIB = 256


def check_host(
    params: HostParams,
    *,
    plan: HostPlan | None = None,
    clock: Clock = time.monotonic,
    progress: Progress | None = None,
    save_to: str | os.PathLike[str] = "",
) -> Outcome:
    """Decide whether the links of a host are what its topology, their likes and earlier hosts of its type promise.

    What goes wrong after the parameters were accepted is an ERROR with its traceback, not an exception.

    Args:
        plan: the links in place of those that are found.
        clock: gives seconds; for the timings only.
        progress: called with (stage, done, total).
        save_to: where the caller saves the outcome; the run is recorded beside it, as `<name>.samples.json.gz`.

    Raises:
        ParamsError: a GPU is named that is not there or cannot be driven, an earlier outcome is of another type of
            host, or a recording cannot be read.
    """
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), clock()
    facts: Facts = {"params": params.model_dump(), "started_at": started_at}
    check_expected(params)
    try:
        outcome = _work(params, plan, facts, progress or no_progress, save_to)
    except ParamsError:
        raise
    except SystemUnavailableError as error:
        row = Row("gpus_there", "The GPUs that were asked for are on this machine", unit="")
        missing = row.judge(None, "==", True, evidence="PyTorch and NVML", missing=str(error))
        outcome = conclude_early(ANATOMY.check, missing, str(error), facts)
    except Exception as error:
        summary = f"{params.system}: {type(error).__name__}: {error}"
        failure = Failure.from_exception(error)
        outcome = Outcome(check=ANATOMY.check, status=Status.ERROR, summary=summary, failure=failure, **facts)
    return replace(outcome, timings={**outcome.timings, "total_s": clock() - started})


def _work(
    params: HostParams, plan: HostPlan | None, facts: Facts, progress: Progress, save_to: str | os.PathLike[str]
) -> Outcome:
    if params.recording:
        evidence = load_recording(params)
        facts["environment"] = read_environment(None)
        return conclude(ANATOMY, replace(evidence, expected=expect_figures(params, evidence)), facts)
    with tempfile.TemporaryDirectory(prefix="djinn-checks-host-") as folder:
        chosen = plan or _find_links(params, Path(folder))
        if chosen.in_use:
            return _somebody_is_there(chosen, facts)
        evidence = drive(params, chosen, progress)
    facts["environment"] = read_environment(choose_device(params.device))
    evidence = replace(evidence, expected=expect_figures(params, evidence))
    if save_to:
        save_recording(evidence, recording_path(save_to))
    return conclude(ANATOMY, evidence, facts)


def recording_path(save_to: str | os.PathLike[str]) -> Path:
    """Return where the recording goes that belongs to the outcome `save_to`."""
    path = Path(save_to)
    return path.with_name(f"{path.name.removesuffix('.json').removesuffix('.outcome')}.samples.json.gz")


def _find_links(params: HostParams, folder: Path) -> HostPlan:
    """Return the GPUs that are there; links that stand in for them where there is none.

    Raises:
        SystemUnavailableError: GPUs were asked for, and there is none that can be driven.
    """
    if ":" in params.device:
        raise ParamsError(f"device: {params.device} counts GPUs in an order of its own; give their UUIDs by `gpus`")
    found = find_gpus() if params.device != "cpu" else None
    if found is not None and found.gpus:
        plan = plan_gpus(params, found)
        if plan.links:
            return plan
        said = "; ".join(f"{uuid}: {why}" for uuid, why in plan.left_out.items())
        raise SystemUnavailableError(f"none of the {len(found.gpus)} GPU(s) of this host can be driven: {said}")
    if params.device.startswith("cuda") or params.gpus not in ("", "all"):
        raise SystemUnavailableError(
            "GPUs were asked for, and NVML lists none on this machine; use device: auto or cpu"
        )
    return plan_stand_ins(params, folder)


def _somebody_is_there(plan: HostPlan, facts: Facts) -> Outcome:
    said = "; ".join(f"{uuid}: {who}" for uuid, who in plan.in_use.items())
    row = GPUS_FREE.judge(
        len(plan.in_use),
        "==",
        0,
        evidence="NVML's list of processes and the memory in use, before anything ran",
        failed=f"{said}; end it, or name the free ones by `gpus`",
        instrument=True,
    )
    return conclude_early(ANATOMY.check, row, f"nothing was run, as somebody else uses a GPU: {said}", facts)


def drive(params: HostParams, plan: HostPlan, progress: Progress) -> HostEvidence:
    """Start the processes, have them go through all stages, and return what was seen."""
    sources, health_s = [link.source for link in plan.links], min(_HEALTH_S, params.stage_s / 3)
    with ManyCounters(sources, hz=params.sampler_hz, health_s=health_s) as counters, Fleet() as fleet:
        progress("processes", 0, 1)
        for link in plan.links:
            fleet.add(link.uuid, link.opener, link.options, link.variables)
        why_no_peers = _add_peers(fleet, params, plan)
        fleet.gather(_START_S)
        idle_start = time.monotonic()
        time.sleep(_IDLE_S)
        idle = (idle_start, time.monotonic())
        runner = Runner(fleet, counters, plan, params, progress)
        runner.run_all()
        time.sleep(_IDLE_S)
        end_s = time.monotonic()
        verified = runner.verify()
        series, health, reasons = counters.read(), counters.read_health(), counters.reasons
    seen = tuple(
        Seen(
            plan=link,
            series=series[number],
            health=health[number],
            why_not_counted=reasons[number],
            near_node=fleet.ready.get(link.uuid, {}).get("near"),
            far_node=fleet.ready.get(link.uuid, {}).get("far"),
            bound=bool(fleet.ready.get(link.uuid, {}).get("bound")),
            verified=verified.get(link.uuid),
            lost=fleet.lost.get(link.uuid, ""),
            latencies=tuple(runner.latencies[link.uuid]),
        )
        for number, link in enumerate(plan.links)
    )
    return HostEvidence(
        params=params,
        subject=plan.subject,
        plan=plan,
        seen=seen,
        stages=tuple(runner.stages),
        idle_s=idle,
        end_s=end_s,
        peers=tuple(runner.peers) if verified.get(PEERS) is not False else (),
        peers_missing=why_no_peers or fleet.lost.get(PEERS, "") or _say_wrong(verified.get(PEERS)),
    )


def _add_peers(fleet: Fleet, params: HostParams, plan: HostPlan) -> str:
    """Start the process that copies between GPUs; return why there is none."""
    if not params.peers:
        return "they were not asked for (`peers: false`)"
    if not plan.pairs:
        return "there is one GPU" if len(plan.links) == 1 else "links within host memory have no peers"
    unable = [pair for pair in plan.pairs if pair.can_peer is False]
    if len(unable) == len(plan.pairs):
        return "no GPU can write another's memory, by NVML"
    fleet.add(
        PEERS,
        "djinn_checks.checks.host.peers:open_link",
        {"count": len(plan.links), "nbytes": _PEER_MIB * MIB},
        {"CUDA_VISIBLE_DEVICES": ",".join(plan.uuids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
    return ""


def _say_wrong(verified: bool | None) -> str:
    return "the bytes of copies between GPUs did not arrive" if verified is False else ""
