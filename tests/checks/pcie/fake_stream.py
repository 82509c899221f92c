"""A process of one GPU that moves nothing and takes no time: for the order in which several are told what to do."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from djinn_checks.checks.pcie.decode_loop import DecodeRun
from djinn_checks.faults.pcie.traffic import make_ceiling


class FakeStream:
    """Answers as `stream_worker` does."""

    meet: Any

    def describe(self) -> dict[str, Any]:
        return {"weight_bytes": 1000, "budget_bytes": 400, "encodes": False, "floor": None}

    def measure_ceiling(self, direction: str, at_s: float | None = None) -> dict[str, Any]:
        return dataclasses.asdict(make_ceiling((1.0, 2.0), direction=direction, kind="host memory"))

    def decode(self) -> dict[str, Any]:
        told = self.meet("warm")
        assert told["alone_for_s"] == 1.0
        told = self.meet({"start_s": 1.0, "end_s": 2.0, "passes": 5})
        time.sleep(max(0.0, told["at_s"] - time.monotonic()))
        start = time.monotonic()
        run = DecodeRun(
            start_s=start,
            end_s=start + 1.0,
            pass_ends_s=(start + 0.5, start + 1.0),
            predicted_bytes=600,
            claimed_bytes=1200,
            witnessed_bytes=600,
            peak_device_bytes=None,
            host_growth_bytes=0,
            open_s=0.1,
            timeline=(),
        )
        return dataclasses.asdict(run)


def open_link(params: dict[str, Any], device: str) -> FakeStream:
    """Return a fake, which was told of a CPU and of one GPU only."""
    assert (device, params["gpus"]) == ("cpu", "")
    return FakeStream()
