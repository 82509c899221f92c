"""What checks of several GPUs share: the row whether all of them were driven, and which processes were lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from djinn_checks.outcome import Criterion, Row

_ROW = Row("whole_host", "Every GPU of the host was driven", unit="GPU(s)")


def judge_whole_host(
    driven: int, left_out: Mapping[str, str], asked: str | Sequence[str], stand_ins: str = ""
) -> Criterion:
    """Return whether every GPU of the host was driven.

    Args:
        driven: how many were.
        left_out: UUIDs of those that were not, and why.
        asked: "all", or those that the verdict is about.
        stand_ins: what ran where there is no GPU; empty: GPUs ran.
    """
    if stand_ins:
        return _ROW.judge(None, "==", driven, evidence="NVML", missing=stand_ins)
    if asked != "all":
        return _ROW.skip(f"{driven} of {driven + len(left_out)} were asked for by name, and the verdict is about those")
    return _ROW.judge(
        driven,
        "==",
        driven + len(left_out),
        evidence="GPUs that NVML lists, by UUID",
        failed="; ".join(f"{uuid}: {why}" for uuid, why in left_out.items()),
        instrument=True,
    )


def tell_lost(lost: Mapping[str, str]) -> str:
    """Return which processes were lost and why in one line; those that had the same end are named together."""
    ends: dict[str, list[str]] = {}
    for name, why in lost.items():
        ends.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} {why}" for why, names in ends.items())
