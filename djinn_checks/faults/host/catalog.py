"""Faults of the host check: links that are not what they should be, and counters that are not their own.

Each is planted in evidence of a host of four GPUs that is made to measure (`made.py`), where the only thing wrong is
the planted one; those that a link within host memory can have are run for real on stand-ins as well (`links.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from djinn_checks.checks.conclude import conclude
from djinn_checks.checks.host.check import ANATOMY
from djinn_checks.checks.host.evidence import Expectation, HostEvidence
from djinn_checks.faults.base import Doses, Fault
from djinn_checks.faults.host.made import MadeHost, lose, make_evidence
from djinn_checks.faults.host.runs import Change, run_host, swapped, with_defect
from djinn_checks.instruments.topology import Port
from djinn_checks.outcome import Outcome, Status

_LINKS, _BAD = 4, 2
_UNSEEN = Status.INCONCLUSIVE


def judge_made(evidence: HostEvidence) -> Outcome:
    """Return the outcome of evidence made to measure."""
    return conclude(ANATOMY, evidence, {})


def _made(
    name: str,
    breaks: str,
    modelled_on: str,
    caught_by: str,
    make: Callable[[float], HostEvidence],
    dose: float,
    *,
    unit: str = "",
    smaller: tuple[float, ...] = (),
    effect: Status = Status.FAIL,
) -> Fault:
    def run(size: float, device: torch.device) -> Outcome:
        return judge_made(make(size))

    return Fault(
        name=name,
        check="host",
        breaks=breaks,
        modelled_on=modelled_on,
        caught_by=caught_by,
        effect=effect,
        run=lambda device: run(dose, device),
        made_up=True,
        doses=Doses(unit=unit, sizes=smaller, run=run) if smaller else None,
    )


def _real(
    name: str, breaks: str, modelled_on: str, caught_by: str, change: Change, effect: Status = Status.FAIL
) -> Fault:
    return Fault(
        name=name,
        check="host",
        breaks=breaks,
        modelled_on=modelled_on,
        caught_by=caught_by,
        effect=effect,
        run=run_host(change),
    )


def _slow(share: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, rates={_BAD: share}))


def _all_slow(share: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, rates=dict.fromkeys(range(_LINKS), share)))


def _swapped(dose: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, counted_by={1: _BAD, _BAD: 1}))


def _narrows(seconds: float) -> HostEvidence:
    """Drop to eight lanes in mid-run, for so long."""
    return make_evidence(
        MadeHost(links=_LINKS, width=lambda number, t_s: 8 if number == _BAD and 0 <= t_s - 5 < seconds else 16)
    )


def _pins(gigabytes: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, pinned_pages=int(gigabytes * 1e9 / 4096)))


def _keeps_waiting(seconds: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, silent_s=(2.0, 2.0 + seconds)))


def _shares_a_switch(share: float) -> HostEvidence:
    """Have all links below a port that carries what two of them do, and get a part of that."""
    together = 2 * share / _LINKS
    port = Port(address="0000:00:01.0", generation=6, width=16)
    host = MadeHost(links=_LINKS, switch=Port(address=port.address, generation=5, width=32),
                    shares={"h2d": together, "d2h": together, "both": together})  # fmt: skip
    return make_evidence(host)


def _in_the_way(share: float) -> HostEvidence:
    """All links together carry a part of what one does alone."""
    return make_evidence(MadeHost(links=_LINKS, shares=dict.fromkeys(("h2d", "d2h", "both"), share / _LINKS)))


def _less_than_expected(share: float) -> HostEvidence:
    """All at once each has a part of what an earlier host of the type had."""
    host = MadeHost(links=_LINKS, shares=dict.fromkeys(("h2d", "d2h", "both"), 0.9 * share))
    names = ("together_h2d", "together_d2h", "together_both")
    return make_evidence(host, expected=Expectation(figures=dict.fromkeys(names, 0.9), source="an earlier outcome"))


def _replays(per_second: float) -> HostEvidence:
    evidence = make_evidence(MadeHost(links=_LINKS))
    count = int(per_second * (evidence.end_s - evidence.idle_s[0] + 0.5))
    return make_evidence(MadeHost(links=_LINKS, counts={_BAD: {"replays": count}}))


def _fatal(dose: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, counts={_BAD: {"fatal_errors": 2}}))


def _hot(dose: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, clock_reasons={_BAD: 0x40}))


def _garbles(dose: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, unverified=(_BAD,)))


def _busy(share: float) -> HostEvidence:
    return make_evidence(MadeHost(links=_LINKS, idle_bytes_per_s={_BAD: share * 54e9}))


def _lost(dose: float) -> HostEvidence:
    return lose(make_evidence(MadeHost(links=_LINKS)), _BAD, "in alone h2d: it ended with code 9")


_FAULTS = (
    _made("link_at_half_rate", "A link carries half of what the others do.", "a riser that trains at half its lanes",
          "alone_like_others", _slow, 0.5, unit="share of its rate", smaller=(0.8, 0.9, 0.94, 0.96)),
    _made("all_links_slow", "Every link carries three quarters of what its lanes allow.",
          "a BIOS that caps the size of packets", "alone_of_width", _all_slow, 0.75, unit="share of the rate",
          smaller=(0.85, 0.9, 0.93)),
    _made("counters_swapped", "Two GPUs are counted by each other's counters.",
          "an index of CUDA taken for one of NVML", "counted_vs_copied", _swapped, 0.0),
    _made("width_drops", "A link trains down to half its lanes in mid-run, and up again.", "a loose card",
          "link_at_its_best", _narrows, 3.0, unit="s", smaller=(1.0, 0.5, 0.2)),
    _made("neighbour_pins", "Another process pins 8 GB during the stages.", "a job that starts beside it",
          "nobody_pins", _pins, 8.0, unit="GB", smaller=(1.0, 0.2, 0.11, 0.09), effect=_UNSEEN),
    _made("readings_wait", "For most of a second nobody can read a counter.", "8 GB that are pinned while copies run",
          "counters_complete", _keeps_waiting, 0.74, unit="s", smaller=(0.3, 0.2, 0.1), effect=_UNSEEN),
    _made("switch_gives_half", "Links below a switch get half of what its link to the host carries.",
          "an uplink at half its lanes, told by its port as whole", "sharing_explained", _shares_a_switch, 0.5,
          unit="share of the port", smaller=(0.8, 0.9)),
    _made("links_in_the_way", "All links together carry half of what one does alone.", "a host bridge that thrashes",
          "together_at_least_one", _in_the_way, 0.5, unit="share of one link", smaller=(0.9, 0.96)),
    _made("less_than_its_type", "All at once each link has a fifth less than on an earlier host of the type.",
          "memory channels left empty", "together_as_expected", _less_than_expected, 0.8, unit="share of the earlier",
          smaller=(0.9, 0.94, 0.96)),
    _made("link_replays_packets", "A link sends ten packets a second again.", "a dirty contact", "link_replays",
          _replays, 10.0, unit="replays a second", smaller=(5.0, 2.0, 1.0)),
    _made("link_has_fatal_errors", "A link has errors that no replay mends.", "a broken riser", "link_errors", _fatal,
          0.0),
    _made("gpu_too_hot", "A GPU is slowed by its temperature.", "a blocked duct", "clocks_not_slowed", _hot, 0.0),
    _made("copies_garbled", "The bytes of a link's copies do not arrive.", "defective memory", "copies_arrived",
          _garbles, 0.0),
    _made("link_in_use", "Somebody else copies to a GPU all the time.", "a shared machine", "links_quiet", _busy, 0.05,
          unit="share of its rate", smaller=(0.02, 0.012, 0.008), effect=_UNSEEN),
    _made("link_process_lost", "The process of a link ends in mid-run.", "an out-of-memory kill", "workers_finished",
          _lost, 0.0, effect=_UNSEEN),
    _real("stand_in_at_half_rate", "A stand-in carries half of what the others do.",
          "a riser that trains at half its lanes", "alone_like_others", with_defect(1, "slow", share=0.5)),
    _real("stand_ins_swapped", "Two stand-ins are counted by each other's counters.",
          "an index of CUDA taken for one of NVML", "counted_vs_copied", swapped(0, 2)),
    _real("stand_in_narrows", "A stand-in trains down to half its lanes in mid-run.", "a loose card",
          "link_at_its_best", with_defect(1, "narrows")),
    _real("stand_in_neighbour_pins", "8 GB are pinned beside a stand-in, whose readings wait.",
          "a job that starts beside it", "nobody_pins", with_defect(1, "pins"), _UNSEEN),
    _real("stand_in_dies", "The process of a stand-in ends in mid-run.", "an out-of-memory kill", "workers_finished",
          with_defect(1, "dies"), _UNSEEN),
    _real("stand_in_copies_uncounted", "A stand-in copies a twentieth more than its counters see.",
          "counters of another partition", "counted_vs_copied", with_defect(1, "copies_uncounted")),
    _real("stand_in_loses_bytes", "A stand-in delivers other bytes than it was given.", "defective memory",
          "copies_arrived", with_defect(1, "loses_bytes")),
)  # fmt: skip

FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _FAULTS}
