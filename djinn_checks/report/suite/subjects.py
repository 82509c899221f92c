"""Who is under test in a suite, and who runs beside it.

A params file that bears the bare name of its check, `pcie.yaml`, runs the system under test; `pcie-diffusers.yaml` with
another system runs a rival, whose verdict is its own. Where all runs are of one system, that is it. A recorded trace or
host is nobody's run on this machine: it is under test only where it alone stands for its check, and nothing is where
all of several are recorded. A name may end with its host, `pcie@node-1`, which says nothing about the system.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.hosts import split_host

_FAMILIES = {"logits": "streaming", "pcie": "streaming", "agents": "agents", "faults": "faults"}
"""Checks whose system is the same one. Any other check is a family of its own."""
OWN_SERVER = "djinn-checks serve"

Outcomes = dict[str, Outcome]


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The runs of a suite by what they are about; each by the name of its params file."""

    own: Outcomes = field(default_factory=dict)
    """Of what is under test."""
    rivals: Outcomes = field(default_factory=dict)
    """Of other systems, beside it."""
    faults: Outcomes = field(default_factory=dict)
    """Planted, to see whether the checks can fail."""

    @property
    def deciding(self) -> Outcomes:
        """The runs whose verdicts are the suite's: of what is under test, and planted faults. Where nothing is under
        test, each run stands for itself, and all of them count."""
        return self.own | self.faults if self.own else self.rivals | self.faults

    @property
    def subjects(self) -> list[str]:
        """The names of what is under test, in the order of the runs."""
        return list(dict.fromkeys(name_subject(outcome) for outcome in self.own.values()))


def cast_runs(outcomes: Mapping[str, Outcome]) -> Cast:
    """Tell the runs of what is under test from those of rivals."""
    families: dict[str, Outcomes] = {}
    for name, outcome in outcomes.items():
        families.setdefault(_FAMILIES.get(outcome.check, outcome.check), {})[name] = outcome
    found = Cast()
    others = [outcome for outcome in outcomes.values() if outcome.check != "faults"]
    all_recorded = len({_identify(outcome) for outcome in others}) > 1 and all(_recorded(outcome) for outcome in others)
    for family, runs in families.items():
        if family == "faults":
            found.faults.update(runs)
            continue
        subjects = set() if all_recorded else _find_subjects(runs)
        for name, outcome in runs.items():
            (found.own if _identify(outcome) in subjects else found.rivals)[name] = outcome
    return Cast(
        own={name: found.own[name] for name in outcomes if name in found.own},
        rivals={name: found.rivals[name] for name in outcomes if name in found.rivals},
        faults=found.faults,
    )


def name_subject(outcome: Outcome) -> str:
    """Return what a run is about, for a reader."""
    if _recorded(outcome):
        return f"recorded {_recorded(outcome)}"
    if outcome.check == "agents":
        return str(outcome.params.get("server_address") or OWN_SERVER)
    return str(outcome.params.get("system") or outcome.check)


def _recorded(outcome: Outcome) -> str:
    """Return the trace or host that was judged in place of a run, in words; empty: it was a run."""
    names = {what: str(outcome.params.get(key) or "") for what, key in (("trace", "trace"), ("host", "recording"))}
    return next((f"{what} {name.rpartition('/')[2]}" for what, name in names.items() if name), "")


def _identify(outcome: Outcome) -> tuple[str, str]:
    return name_subject(outcome), str(outcome.params.get("adapter", "")) if outcome.check == "agents" else ""


def _find_subjects(runs: Mapping[str, Outcome]) -> set[tuple[str, str]]:
    named = {_identify(outcome) for name, outcome in runs.items() if split_host(name).run == outcome.check}
    every = {_identify(outcome) for outcome in runs.values()}
    return named or (every if len(every) == 1 else set())
