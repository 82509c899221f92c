"""Both public branches of Djinn in small: what their ring buffers do with a model that is larger than the ring.

Written after the published interface (`WeightRingBuffer`, `WeightStreamer`, `install_ring_buffer_hooks`) and what the
documentation of each branch says: one keeps all layers or refuses; the other keeps what fits at fixed places, streams
the other blocks through three slots, and remembers for ever which slot a block was copied to.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

SLOTS = 3


@dataclass
class Block:
    """Parameters that stream together."""

    name: str
    values: dict[str, Tensor]
    offset: int = 0
    """Where its bytes start in the ring, if it is resident."""
    resident: bool = False

    @property
    def nbytes(self) -> int:
        return sum(value.nbytes for value in self.values.values())


@dataclass
class Registration:
    """A model in a ring."""

    blocks: list[Block]
    slot_offsets: list[int] = field(default_factory=list)
    slot_of: dict[int, int] = field(default_factory=dict)
    """Slot of each block that was ever copied. Nothing takes an entry out when its slot is filled again."""


class WeightRingBuffer:
    """A ring that holds a whole model, or says that it cannot."""

    def __init__(self, capacity_bytes: int, device: torch.device) -> None:
        self.capacity_bytes, self.device = capacity_bytes, device
        self.buffer = torch.zeros(capacity_bytes, dtype=torch.uint8, device=device)
        self.registrations: dict[str, Registration] = {}
        self.moved = 0

    def register_model(self, model_id: str, state_dict: Mapping[str, Tensor]) -> None:
        needed = sum(value.nbytes for value in state_dict.values())
        if needed > self.capacity_bytes:
            gb = 1024**3
            raise ValueError(
                f"Model {model_id} requires {needed / gb:.1f}GB but ring buffer capacity is only "
                f"{self.capacity_bytes / gb:.1f}GB"
            )
        raise AssertionError("nothing here lets a model fit")

    def get_stats(self) -> dict[str, int]:
        return {"bytes_transferred": self.moved}

    def view(self, offset: int, like: Tensor) -> Tensor:
        return self.buffer[offset : offset + like.nbytes].view(like.dtype).view(like.shape)

    def write(self, offset: int, block: Block) -> None:
        for value in block.values.values():
            self.view(offset, value).copy_(value)
            offset += value.nbytes
            self.moved += value.nbytes


class FractionalRing(WeightRingBuffer):
    """A ring that keeps the blocks that fit beside three slots, and streams the others."""

    def register_model(self, model_id: str, state_dict: Mapping[str, Tensor]) -> None:
        grouped: dict[str, dict[str, Tensor]] = {}
        for name, value in state_dict.items():
            parts = name.split(".")
            end = parts.index("layers") + 2 if "layers" in parts else len(parts) - 1
            grouped.setdefault(".".join(parts[:end]), {})[name] = value.clone()
        blocks = [Block(name, values) for name, values in sorted(grouped.items())]
        slot_bytes = -(-max(block.nbytes for block in blocks) // 16) * 16
        offset = 0
        for block in blocks:
            if offset + block.nbytes <= self.capacity_bytes - SLOTS * slot_bytes:
                block.resident, block.offset = True, offset
                self.write(offset, block)
                offset += block.nbytes
        offset = -(-offset // 16) * 16
        slots = [offset + slot * slot_bytes for slot in range(SLOTS)]
        self.registrations[model_id] = Registration(blocks, slots)


class WeightStreamer:
    """Copies blocks into slots."""

    def __init__(self, ring: WeightRingBuffer, device: torch.device) -> None:
        self.ring = ring

    def start(self) -> None:
        """Nothing runs in the background here."""

    def stop(self) -> None:
        """Nothing is to be ended."""

    def prefetch_block(self, model_id: str, index: int) -> None:
        held = self.ring.registrations[model_id]
        if index in held.slot_of or held.blocks[index].resident:
            return
        held.slot_of[index] = index % SLOTS
        self.ring.write(held.slot_offsets[index % SLOTS], held.blocks[index])


def install_ring_buffer_hooks(
    module: nn.Module, ring: WeightRingBuffer, model_id: str, streamer: WeightStreamer
) -> None:
    held = ring.registrations[model_id]
    for index, block in enumerate(held.blocks):
        if block.resident:
            _bind(module, ring, block, block.offset)
            continue
        first = next(iter(block.values)).rpartition(".")[0]

        def before(*_: Any, index: int = index, block: Block = block) -> None:
            streamer.prefetch_block(model_id, index)
            _bind(module, ring, block, held.slot_offsets[held.slot_of[index]])
            if index + 2 < len(held.blocks):
                streamer.prefetch_block(model_id, index + 2)

        module.get_submodule(first).register_forward_pre_hook(before)


def _bind(module: nn.Module, ring: WeightRingBuffer, block: Block, offset: int) -> None:
    for name, value in block.values.items():
        module.get_parameter(name).data = ring.view(offset, value)
        offset += value.nbytes


def install_branch(
    monkeypatch: pytest.MonkeyPatch, ring: type[WeightRingBuffer], streamer: Any = WeightStreamer
) -> None:
    """Let `import djinn` find a branch for as long as a test runs."""
    names = {
        "ring_buffer": {"WeightRingBuffer": ring},
        "weight_streamer": {"WeightStreamer": streamer},
        "weight_hooks": {"install_ring_buffer_hooks": install_ring_buffer_hooks},
    }
    for package in ("djinn", "djinn.backend", "djinn.backend.runtime"):
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    for name, values in names.items():
        module = ModuleType(f"djinn.backend.runtime.{name}")
        for key, value in values.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
