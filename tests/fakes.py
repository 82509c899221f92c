"""A small model, and systems that stream it rightly, wrongly or not at all. Each plants one defect."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from djinn_checks.checks.logits.link import LinkEvidence
from djinn_checks.instruments.memory_place import Place
from djinn_checks.systems.base import System

LLAMA = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


class TinyModel:
    """A random Llama of six blocks, with the interface of `djinn_checks.models.open.Model`."""

    name = "tiny-fake"
    positions = None
    unrouted_bytes = unpicked_bytes = 0

    def __init__(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.dtype = dtype
        torch.manual_seed(seed)
        self._module = LlamaForCausalLM(LlamaConfig(**LLAMA)).to(dtype).eval()
        for parameter in self._module.parameters():
            parameter.data.add_(0.02 * torch.randn_like(parameter)).requires_grad_(False)
        self.weights = dict(self._module.state_dict())
        self.weight_bytes = self.used_bytes = sum(value.nbytes for value in self.weights.values())

    def lent(self) -> TinyModel:
        return self

    def resident(self, device: torch.device) -> nn.Module:
        module = self.skeleton().to_empty(device=device)
        module.model.rotary_emb.load_state_dict({}, strict=False)
        module.load_state_dict(self.weights)
        module.model.rotary_emb.inv_freq = self._module.model.rotary_emb.inv_freq.clone()
        return module

    def skeleton(self) -> Any:
        with torch.device("meta"):
            module = LlamaForCausalLM(LlamaConfig(**LLAMA)).to(self.dtype).eval()
        return module.requires_grad_(False)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        return [1 + zlib.crc32(word.encode()) % 96 for word in text.split()][:max_tokens]


class CountedForwards:
    """A link whose counters tell to the byte what was read when, and host memory at known addresses."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.reads: list[tuple[float, float]] = []
        self.host: set[int] = set()

    def read(self, nbytes: float) -> None:
        self.reads.append((time.monotonic(), nbytes))

    def place_of(self, device: torch.device, address: int) -> Place:
        return "host" if address in self.host else "device"

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield

    def look(self) -> None:
        """Measure no memory."""

    def evidence(self) -> LinkEvidence:
        return LinkEvidence(payload_between=self._between)

    def _between(self, start_s: float, end_s: float) -> float | None:
        return sum(nbytes for when, nbytes in self.reads if start_s <= when <= end_s)


FORWARDS: Any = CountedForwards()


class ResidentFake(System):
    """Streams nothing, and says it streamed a lot."""

    name = "resident-fake"
    module: Any = None

    def open(self) -> Any:
        self.module = self.model.resident(self.device)
        return self.module

    def close(self) -> None:
        self.module = None


class StreamingFake(System):
    """Copies each block's weights into one of two slots right before the block runs; the rest is resident.

    Subclasses override `after_fill` to spoil what arrived, or `open` to spoil what comes out.
    """

    name = "streaming-fake"
    moved = 0
    forwards = 0

    def open(self) -> Any:
        module: Any = self.model.resident(self.device)
        self.blocks = list(module.model.layers)
        self.host = [{name: value.data for name, value in block.named_parameters()} for block in self.blocks]
        size = max(sum(value.numel() for value in weights.values()) for weights in self.host)
        self.slots = [torch.empty(size, dtype=self.model.dtype) for _ in range(2)]
        for index, block in enumerate(self.blocks):
            block.register_forward_pre_hook(lambda *_, index=index: self.fill(index))
        module.register_forward_pre_hook(self.count_forward)
        return module

    def count_forward(self, *_: Any) -> None:
        self.forwards += 1

    def fill(self, index: int) -> None:
        slot, start = self.slots[index % 2], 0
        for name, value in self.host[index].items():
            place = slot[start : start + value.numel()].view_as(value)
            place.copy_(value)
            self.after_fill(index, name, place)
            self.blocks[index].get_parameter(name).data = place
            start += value.numel()
            self.moved += value.nbytes

    def after_fill(self, index: int, name: str, place: Tensor) -> None:
        """Leave the weight as it is."""

    def predicted_bytes_per_pass(self) -> int | None:
        return sum(value.nbytes for weights in self.host for value in weights.values())

    def claimed_bytes(self) -> int | None:
        return self.moved

    def close(self) -> None:
        self.blocks, self.host, self.slots = [], [], []


class ZeroedRow(StreamingFake):
    """One row of one weight of block 2 does not arrive."""

    def after_fill(self, index: int, name: str, place: Tensor) -> None:
        if index == 2 and name == "mlp.up_proj.weight":
            place[3].zero_()


class SlightlyOff(StreamingFake):
    """The logits are off by 1e-7 of themselves."""

    def open(self) -> Any:
        module = super().open()
        module.lm_head.register_forward_hook(lambda _, __, output: output * (1 + 2e-7))
        return module


class FlakyInPass(StreamingFake):
    """Wrong in one forward only: the decode step 1 of the second prompt, in pass 2."""

    wrong_forward = 0

    def after_fill(self, index: int, name: str, place: Tensor) -> None:
        if self.forwards == self.wrong_forward and index == 4 and name == "mlp.down_proj.weight":
            place[0].zero_()


class LiesAboutBytes(StreamingFake):
    """Claims a byte too much in every forward."""

    def claimed_bytes(self) -> int | None:
        return self.moved + self.forwards


class ClaimsNothingMoved(StreamingFake):
    """Plans and claims zero bytes while it streams."""

    def predicted_bytes_per_pass(self) -> int | None:
        return 0

    def claimed_bytes(self) -> int | None:
        return 0


class KeepsNoCount(StreamingFake):
    """Makes no claims."""

    def predicted_bytes_per_pass(self) -> int | None:
        return None

    def claimed_bytes(self) -> int | None:
        return None


class NotANumber(StreamingFake):
    """One logit is NaN."""

    def open(self) -> Any:
        def spoil(_: Any, __: Any, output: Tensor) -> Tensor:
            output = output.clone()
            output[0, -1, 7] = torch.nan
            return output

        module = super().open()
        module.lm_head.register_forward_hook(spoil)
        return module


class Unseen(StreamingFake):
    """Computes in a thread in which nothing tells of functions: what it does with weights cannot be seen."""

    def open(self) -> Any:
        module, self.pool = super().open(), ThreadPoolExecutor(1)

        @torch.no_grad()
        def run(*args: Any, **options: Any) -> Any:
            with torch._C.DisableTorchFunction():
                return module(*args, **options)

        return lambda *args, **options: self.pool.submit(run, *args, **options).result()

    def close(self) -> None:
        self.pool.shutdown()
        super().close()


class Crashes(StreamingFake):
    """Raises in the middle of the second pass."""

    def count_forward(self, *_: Any) -> None:
        super().count_forward()
        if self.forwards == 20:
            raise RuntimeError("the copy engine went away")
