"""One GPU of several, in the process that is its own: it measures its link, opens the system, and decodes when told.

The process sees its GPU alone. What it measures of its link it says as spans of time and bytes; the counters are read
elsewhere, by one process for all, and nothing is judged here.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import torch

from djinn_checks.attention import reproducible_attention
from djinn_checks.checks.pcie.decode_loop import decode_stretches
from djinn_checks.checks.pcie.weights import survey_weights
from djinn_checks.checks.prompts import check_room
from djinn_checks.checks.run import build_system, release_memory
from djinn_checks.checks.settle import no_progress
from djinn_checks.devices import choose_device, choose_dtype
from djinn_checks.instruments.link_ceiling import copy_known, measure_ceiling
from djinn_checks.instruments.memory import used_beside
from djinn_checks.models.open import open_model
from djinn_checks.params import PcieParams
from djinn_checks.systems.base import find_system
from djinn_checks.units import MIB

_BYTES, _SAMPLES = 512 * MIB, 8
_HOST_BYTES, _HOST_SAMPLES = 32 * MIB, 3


class StreamWorker:
    """The system on one device."""

    def __init__(self, params: dict[str, Any], device: str) -> None:
        """Read the model and plan the system; nothing is opened yet.

        Raises:
            DjinnChecksError: as the check of one GPU does.
        """
        self._params = PcieParams.create(**params)
        self._device = choose_device(device)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        dtype = choose_dtype(self._params.dtype, self._device)
        model = open_model(self._params.model, dtype=dtype, device=self._device, seed=self._params.seed)
        check_room(model, self._params.context_tokens, f"give context_tokens: {model.positions} or less")
        factory = find_system(self._params.system)
        layers = self._params.resident_layers
        options = {} if layers is None else {"resident_blocks": layers}
        used_before = used_beside(self._device)
        self._system, self._budget_bytes = build_system(factory, self._params, model, self._device, **options)
        self._taken = max(0, used_beside(self._device) - used_before)  # or a neighbour's release would hide as much
        self._known = survey_weights(model, self._device) if self._system.encodes else None
        self.meet: Callable[[Any], dict[str, Any]] | None = None
        """Answers in the midst of a command and returns the next one; given by whoever runs this."""

    def describe(self) -> dict[str, Any]:
        """Return what the model has, as plain data."""
        floor = self._known.floor if self._known else None
        return {
            "weight_bytes": self._system.model.weight_bytes,
            "unrouted_bytes": self._system.model.unrouted_bytes + self._system.model.unpicked_bytes,
            "budget_bytes": self._budget_bytes,
            "encodes": self._system.encodes,
            "floor": None if floor is None else dataclasses.asdict(floor),
        }

    def copy_known(self) -> dict[str, Any]:
        """Rest, and copy known bytes twice: spans for the calibration of the counters."""
        idle, spans, payload = copy_known(self._device)
        return {"idle": idle, "spans": spans, "payload_bytes": payload}

    def measure_ceiling(self, direction: str, at_s: float | None = None) -> dict[str, Any]:
        """Measure the link's ceiling, at an instant if there is one, at which others do the same."""
        on_host = self._device.type == "cpu"
        size, samples = (
            (_HOST_BYTES, _HOST_SAMPLES) if on_host else (_BYTES, _SAMPLES if at_s is None else 2 * _SAMPLES)
        )
        found = measure_ceiling(self._device, direction=direction, nbytes=size, samples=samples, at_s=at_s)
        release_memory(self._device)
        return dataclasses.asdict(found)

    def decode(self) -> dict[str, Any]:
        """Open the system, then decode alone and together as it is told, and return the run that was judged."""
        with reproducible_attention():
            (run,) = decode_stretches(
                self._system,
                self._params,
                self._device,
                no_progress,
                known=self._known,
                taken_before=self._taken,
                enter=self._enter,
                leave=self._leave,
            )
        return dataclasses.asdict(run)

    def _enter(self, step: Callable[[], None]) -> None:
        """Say that all is warm; decode alone for as long as told, once; then wait for the common instant."""
        if self.meet is None:
            return
        told = self.meet("warm")
        if "alone_for_s" in told:
            start, passes = time.monotonic(), 0
            while not passes or time.monotonic() - start < told["alone_for_s"]:
                step()
                passes += 1
            told = self.meet({"start_s": start, "end_s": time.monotonic(), "passes": passes})
        time.sleep(max(0.0, told["at_s"] - time.monotonic()))

    def _leave(self) -> None:
        """Hold the memory until all have decoded: whoever releases it keeps the readings of the others waiting."""
        if self.meet is not None:
            self.meet("decoded")


def open_link(params: dict[str, Any], device: str) -> StreamWorker:
    """Return the driver of one GPU's system."""
    return StreamWorker(params, device)
