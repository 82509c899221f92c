"""What the PCIe check consists of, and where its readings go, whoever made the evidence."""

from __future__ import annotations

import os
from pathlib import Path

from djinn_checks.checks.conclude import Anatomy
from djinn_checks.checks.pcie.criteria import judge_evidence
from djinn_checks.checks.pcie.measurements import gather_measurements, summarize

ANATOMY = Anatomy(
    check="pcie", judge_evidence=judge_evidence, gather_measurements=gather_measurements, summarize=summarize
)


def samples_path(save_to: str | os.PathLike[str]) -> Path:
    """Return where the counters' readings go that belong to the outcome `save_to`."""
    path = Path(save_to)
    return path.with_name(f"{path.stem}.samples.csv.gz")
