"""Systems without a fault, in the profile that the faults are planted in: a check that alarms there cries wolf."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from djinn_checks.checks.pcie.criteria import PAPER_SECONDS
from djinn_checks.faults.agents.defects import nothing
from djinn_checks.faults.agents.runs import run_agents
from djinn_checks.faults.host.catalog import judge_made
from djinn_checks.faults.host.made import make_noisy_evidence as make_noisy_evidence_of_host
from djinn_checks.faults.logits.catalog import run_logits
from djinn_checks.faults.pcie.made import judge_evidence
from djinn_checks.faults.pcie.streams import make_encoding, make_in_place
from djinn_checks.faults.pcie.systems import run_pcie
from djinn_checks.faults.pcie.traffic import make_noisy_evidence
from djinn_checks.outcome import Outcome, Status
from djinn_checks.systems.ring import RingSystem

_NO_COUNTERS = frozenset({"counters_complete", "rx_above_threshold", "rx_of_ceiling", "claimed_vs_counted"})


@dataclass(frozen=True, kw_only=True)
class CleanRun:
    """A run in which nothing is wrong."""

    check: str
    says: str
    """What runs, for a reader."""
    run: Callable[[int, torch.device], Outcome]
    """Given the number of the run."""
    made_up: bool = False
    """It judges evidence that is made to measure, and no system runs."""
    undecidable: Callable[[torch.device], frozenset[str]] = lambda device: frozenset()
    """Required criteria that have to be INCONCLUSIVE in such a run, for the reason that is written down in the README:
    a CPU has no PCIe counters."""

    def alarms(self, outcome: Outcome, device: torch.device) -> tuple[str, ...]:
        """Return what is wrong in a verdict about it: what it fails for, or is passed for without evidence."""
        if outcome.status is Status.ERROR:
            said = outcome.failure.message if outcome.failure else outcome.summary
            return (f"ERROR: {said}"[:300],)
        undecidable = self.undecidable(device)
        return tuple(
            f"{row.name}: {row.reason or 'passed, and nothing here can decide it'}"
            for row in outcome.criteria
            if row.required
            if row.status is Status.FAIL or (row.status is Status.PASS and row.name in undecidable)
        )

    def doubts(self, outcome: Outcome, device: torch.device) -> tuple[str, ...]:
        """Return what was left open, instruments first: nobody is accused by it, but nobody was let be either."""
        undecidable = self.undecidable(device)
        return tuple(
            f"{row.name}: {row.reason}"
            for row in outcome.criteria
            if row.required and row.status is Status.INCONCLUSIVE and row.name not in undecidable
        )


CLEAN: Mapping[str, CleanRun] = {
    "logits": CleanRun(
        check="logits",
        says="the reference system streams a tiny model",
        run=lambda number, device: run_logits(RingSystem)(device),
    ),
    "pcie": CleanRun(
        check="pcie",
        says="the reference system decodes over the link of this machine",
        run=lambda number, device: run_pcie(RingSystem, gpu_seconds=PAPER_SECONDS)(device),
        undecidable=lambda device: frozenset() if device.type == "cuda" else _NO_COUNTERS,
    ),
    "pcie_evidence": CleanRun(
        check="pcie",
        says="evidence of a full link, made with jitter, noise and a drift that differ in each run",
        run=lambda number, device: judge_evidence(lambda: make_noisy_evidence(number))(device),
        made_up=True,
    ),
    "in_place_evidence": CleanRun(
        check="pcie",
        says="evidence of kernels that read in place on a full wire, made with noise that differs in each run",
        run=lambda number, device: judge_evidence(lambda: make_in_place(number))(device),
        made_up=True,
    ),
    "encoding_evidence": CleanRun(
        check="pcie",
        says="evidence of layers that travel encoded, made with noise that differs in each run",
        run=lambda number, device: judge_evidence(lambda: make_encoding(number))(device),
        made_up=True,
    ),
    "host_evidence": CleanRun(
        check="host",
        says="evidence of a host of four GPUs, whose links differ a little in each run",
        run=lambda number, device: judge_made(make_noisy_evidence_of_host(number)),
        made_up=True,
    ),
    "agents": CleanRun(
        check="agents",
        says="one agent sleeps and four share a device for two, on a server of a tiny model",
        run=lambda number, device: run_agents(nothing, crowd=True)(0.0, device),
    ),
}
"""What each check's faults are planted in, without any."""
