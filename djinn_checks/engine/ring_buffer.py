"""A ring buffer on the device, through which models larger than it are streamed, one at a time.

The buffer knows how large it may be, where the weights come from and what it has claimed so far. What is true
only while a model streams is in its `WeightStream`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from djinn_checks.engine.codec import Codec
from djinn_checks.engine.link import Link, Stage, open_link
from djinn_checks.engine.plan import Planner
from djinn_checks.engine.segments import Cut, Weights
from djinn_checks.engine.weight_stream import Carriage, Claimed, WeightStream
from djinn_checks.errors import CapacityError, EngineError, HooksError


class WeightRingBuffer:
    """Device memory through which a model larger than it is streamed.

    >>> ring = WeightRingBuffer(2 * 10**9, torch.device("cuda"))
    >>> ring.register_model("llama", model)
    >>> hooks = install_ring_buffer_hooks(model, ring, "llama")
    >>> model.generate(...)
    >>> hooks.remove()

    It serves one model at a time. Claims about itself are in `get_stats`; whether they are true is for
    instruments outside the engine to say.

    Attributes:
        codec: makes the bytes fewer that travel; None: weights travel as they are.
        stream: streams the model whose hooks are installed; None without hooks.
    """

    def __init__(
        self,
        capacity_bytes: int,
        device: torch.device | str,
        *,
        codec: Codec | None = None,
        verify: bool = True,
        folder: Path | None = None,
        link_factory: Callable[[torch.device, int], Link] = open_link,
        stage_factory: Callable[..., Stage] = open_link,
    ) -> None:
        """Describe the buffer; its memory is taken when a model's hooks are installed.

        Args:
            capacity_bytes: device memory for weights: resident segments, ring and, with a codec, what lands encoded.
            codec: what makes the bytes fewer that travel (`open_codec`); None: weights travel as they are.
            verify: with a codec, hold what was decoded against a sum of what was encoded, in every pass.
            folder: with a codec, keep encoded segments there and map them the next time, for as long as the files that
                the weights come from are the same; None: encode each time.
            link_factory: makes the link from (device, number of copies in the cycle).
            stage_factory: makes what decodes, from the same and `stream=`, the current one when hooks are installed.

        Raises:
            CapacityError: `capacity_bytes` is not positive.
        """
        if capacity_bytes <= 0:
            raise CapacityError(f"capacity_bytes: expected a positive number of bytes, got {capacity_bytes}")
        self.capacity_bytes = capacity_bytes
        self.device = torch.device(device)
        self.codec = codec
        self._carriage = Carriage(
            link_factory=link_factory, stage_factory=stage_factory, codec=codec, verify=verify, folder=folder
        )
        self._sources: dict[str, nn.Module | Weights] = {}
        self._claimed = Claimed()
        self.stream: WeightStream | None = None

    def register_model(self, model_id: str, model_or_state_dict: nn.Module | Weights) -> None:
        """Name the source of a model's weights.

        Nothing is read yet: how the weights are packed follows from the module, which
        `install_ring_buffer_hooks` brings. A mapping may be lazy; each weight is read from it once.

        Raises:
            HooksError: a model of that name is being streamed.
        """
        if self.stream is not None and self.stream.model_id == model_id:
            raise HooksError(f"model {model_id!r} is being streamed; remove its hooks before registering it again")
        self._sources[model_id] = model_or_state_dict

    def source(self, model_id: str) -> nn.Module | Weights:
        """Return what was registered under `model_id`.

        Raises:
            EngineError: nothing was.
        """
        if model_id not in self._sources:
            known = ", ".join(map(repr, self._sources)) or "none"
            raise EngineError(f"model {model_id!r} is not registered (registered: {known}); call register_model first")
        return self._sources[model_id]

    def attach(self, model_id: str, cut: Cut, planner: Planner, weights: Weights) -> WeightStream:
        """Start to stream a model.

        Raises:
            HooksError: the ring streams a model already.
            CapacityError: the planner finds no plan.
            EngineError: a weight is missing, has another shape or dtype, or memory cannot be had.
        """
        if self.stream is not None:
            raise HooksError(f"the ring already streams {self.stream.model_id!r}; remove those hooks first")
        self.stream = WeightStream(
            model_id, cut, planner, weights, device=self.device, carriage=self._carriage, claimed=self._claimed
        )
        return self.stream

    def detach(self) -> None:
        """End the stream and let go of its memory. Detaching twice does nothing."""
        if self.stream is not None:
            self.stream.close()
        self.stream = None

    def get_stats(self) -> dict[str, Any]:
        """Return what the engine claims: bytes and copies given to the link, and the plan's prediction.

        `bytes_transferred` and `planned_bytes_per_pass` are bytes on the wire; with a codec the weights have more.
        """
        plan = self.stream.plan if self.stream is not None else None
        return {
            "bytes_transferred": self._claimed.nbytes,
            "copies": self._claimed.copies,
            "planned_bytes_per_pass": plan.bytes_per_pass if plan is not None else None,
            "planned_weight_bytes_per_pass": plan.weight_bytes_per_pass if plan is not None else None,
            "capacity_bytes": self.capacity_bytes,
        }
