"""What the catalogs of faults say of each, as far as it is told before anything is planted.

python -m djinn_checks.faults.catalogs     writes `names.json` anew
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from djinn_checks.faults.base import find_faults
from djinn_checks.faults.names import FILE, FaultName

_DEVICES = ("cpu", "cuda")


def load_names() -> list[FaultName]:
    """Return all faults that are registered, those of other packages among them."""
    return [
        FaultName(
            name=fault.name,
            check=fault.check,
            breaks=fault.breaks,
            devices=tuple(kind for kind in _DEVICES if fault.applies(torch.device(kind))),
        )
        for fault in find_faults()
    ]


if __name__ == "__main__":
    told = [json.dumps(asdict(fault), ensure_ascii=False) for fault in load_names()]
    (Path(__file__).parent / FILE).write_text("[\n" + ",\n".join(told) + "\n]\n", encoding="utf-8")
