"""The counters' readings that lie beside an outcome, judged once more in a process that the checked system never saw.

    python -m djinn_checks.checks.pcie.recount OUTCOME

says whatever of the outcome the readings do not bear out, and exits with 1; with 0 if they do. The system shares a
process with the check that judges it, and may change what that says; the readings come from the sampler, a process
of its own. What a row comes to by them has to be what the outcome says, but for their rounding to microseconds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from djinn_checks.checks.pcie.anatomy import samples_path
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.evidence import MOST_OF_CEILING, PcieEvidence
from djinn_checks.checks.pcie.replay import replay_trace
from djinn_checks.errors import DjinnChecksError
from djinn_checks.instruments.impossible import find_fastest_steps
from djinn_checks.measurements import pcie
from djinn_checks.outcome import Criterion, Outcome
from djinn_checks.params import PcieParams
from djinn_checks.units import format_bytes

_ROUNDED = 0.005
"""What a row may differ by: of some hundred windows one or two lie at a threshold. In five runs on an H200 no row moved
by more than 0.0002."""
_BYTES_ROUNDED = 1e-4
"""Of the bytes that were counted; less than 1e-8 in those runs."""


def main() -> int:
    """Say what the readings do not bear out of the outcome that is named, and return the exit code."""
    try:
        found = find_contradictions(Path(sys.argv[1]))
    except (DjinnChecksError, KeyError, TypeError, ValueError) as error:
        found = [f"its readings cannot be judged again ({type(error).__name__}: {error})"]
    print("; ".join(found))
    return 1 if found else 0


def find_contradictions(file: Path) -> list[str]:
    """Return what an outcome says that the readings beside it do not, as sentences; nothing if they bear it out.

    Raises:
        OutcomeError: the outcome cannot be read.
        ParamsError: the readings are missing, or cannot be judged by its parameters.
    """
    outcome, samples = Outcome.load(file), samples_path(file)
    asked = {name: value for name, value in outcome.params.items() if name in PcieParams.model_fields}
    evidence = replay_trace(PcieParams.create(**{**asked, "trace": str(samples)}))
    rows = (_contradict(outcome, row) for row in judge_evidence(evidence))
    return [*_contradict_bytes(outcome, evidence), *_contradict_ceiling(evidence), *(said for said in rows if said)]


def _contradict(outcome: Outcome, row: Criterion) -> str:
    """Return in what the outcome's row of that name is not this one; empty if it is, or nothing can be said."""
    if not isinstance(row.observed, int | float) or isinstance(row.observed, bool):
        return ""
    told = next((other for other in outcome.criteria if other.name == row.name), None)
    if told is None:
        return f"it has no row {row.name}"
    if (told.comparison, told.threshold) != (row.comparison, row.threshold):
        return f"{row.name} is held against {told.comparison} {told.threshold}, not {row.comparison} {row.threshold}"
    if told.observed is None or _is_near(told.observed, row.observed, _ROUNDED):
        return ""
    return f"{row.name} is {told.observed:.6g}, and by the readings {row.observed:.6g}"


def _contradict_bytes(outcome: Outcome, evidence: PcieEvidence) -> Iterator[str]:
    told, counted = pcie.read(outcome.measurements)["bytes"]["counted"], evidence.counted_bytes
    if (told is None) is not (counted is None) or not _is_near(told or 0.0, counted or 0.0, _BYTES_ROUNDED):
        yield f"it says that {format_bytes(told)} were counted, and by the readings it is {format_bytes(counted)}"


def _contradict_ceiling(evidence: PcieEvidence) -> Iterator[str]:
    """Beside a ceiling that is too low everything looks full; but the link was read while it was measured, too."""
    series, found = evidence.series, evidence.link.calibration
    if series is None or found is None or not len(series.t_s):
        return
    for step in find_fastest_steps(series, float(series.t_s[0]), float(series.t_s[-1])):
        most = evidence.link.most_on_wire(step.direction) or 0.0
        if step.bytes_per_s <= MOST_OF_CEILING * most:
            continue
        yield (
            f"its ceiling allows for {format_bytes(most)}/s on the wire, and by the readings the link carried "
            f"{format_bytes(step.bytes_per_s)}/s"
        )


def _is_near(told: object, again: float, share: float) -> bool:
    if not isinstance(told, int | float):
        return False
    return math.isclose(told, again, rel_tol=share, abs_tol=share)


if __name__ == "__main__":
    sys.exit(main())
