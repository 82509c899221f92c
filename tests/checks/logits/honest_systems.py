"""Systems that stream rightly, each in a way of its own: none of them may be failed."""

from __future__ import annotations

import mmap
import random
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.systems.base import System
from tests.fakes import StreamingFake


class _Quiet(System):
    """Says nothing of what it moves."""

    def close(self) -> None:
        self.module: Any = None


class LoadsAndDrops(_Quiet):
    """Loads the weights of one leaf module before it runs and drops them after it."""

    name = "loads-and-drops"

    def open(self) -> Any:
        self.module = self.model.skeleton()
        weights, self.leaves = self.model.weights, []
        self.module.model.rotary_emb.inv_freq = self.model.resident(self.device).model.rotary_emb.inv_freq
        for name, leaf in self.module.named_modules():
            own = {key: weights[f"{name}.{key}"] for key, value in leaf._parameters.items() if value is not None}
            if own:
                leaf.register_forward_pre_hook(lambda module, _, own=own: self.load(module, own))
                leaf.register_forward_hook(lambda module, *_, own=own: self.drop(module, own))
        return self.module

    def load(self, module: nn.Module, own: dict[str, Tensor]) -> None:
        for key, value in own.items():
            module._parameters[key] = nn.Parameter(self.fetch(value), requires_grad=False)

    def drop(self, module: nn.Module, own: dict[str, Tensor]) -> None:
        for key, value in own.items():
            module._parameters[key] = nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)

    def fetch(self, value: Tensor) -> Tensor:
        """Return a copy in memory of its own."""
        return value.clone()


class EverNewBuffers(LoadsAndDrops):
    """No buffer comes back at an address that was used before: others are taken in between, of other sizes."""

    name = "ever-new-buffers"

    def open(self) -> Any:
        self.between: list[Tensor] = []
        self.draw = random.Random()
        return super().open()

    def fetch(self, value: Tensor) -> Tensor:
        self.between = [*self.between[-40:], torch.empty(self.draw.randint(1, 4 * value.numel()))]
        return value.clone()


class NewMappings(LoadsAndDrops):
    """Each weight comes into a mapping of its own, which is given back to the kernel."""

    name = "new-mappings"

    def fetch(self, value: Tensor) -> Tensor:
        place = torch.frombuffer(mmap.mmap(-1, max(1, value.nbytes)), dtype=value.dtype)[: value.numel()]
        return place.view_as(value).copy_(value)


class OneMapping(LoadsAndDrops):
    """Weights come into views of one mapping, one after the other around it."""

    name = "one-mapping"

    def open(self) -> Any:
        self.arena = torch.frombuffer(mmap.mmap(-1, self.budget_bytes), dtype=self.model.dtype)
        self.at = 0
        return super().open()

    def fetch(self, value: Tensor) -> Tensor:
        self.at = self.at if self.at + value.numel() <= self.arena.numel() else 0
        place = self.arena[self.at : self.at + value.numel()]
        self.at += value.numel()
        return place.view_as(value).copy_(value)


class ResizesStorages(LoadsAndDrops):
    """The parameters stay what they are; their storages are emptied and filled, as sharded data parallelism does."""

    name = "resizes-storages"

    def load(self, module: nn.Module, own: dict[str, Tensor]) -> None:
        for key, value in own.items():
            parameter = module._parameters[key]
            if parameter is None or parameter.is_meta:
                parameter = module._parameters[key] = nn.Parameter(torch.empty_like(value), requires_grad=False)
            parameter.untyped_storage().resize_(value.nbytes)
            parameter.data.copy_(value)

    def drop(self, module: nn.Module, own: dict[str, Tensor]) -> None:
        for key in own:
            module._parameters[key].untyped_storage().resize_(0)  # type: ignore[union-attr]


class CopiesForEachCall(_Quiet):
    """Linear layers multiply with a copy of a host's weight that lives for the call; no module owns it."""

    name = "copies-for-each-call"

    def open(self) -> Any:
        self.module = self.model.resident(self.device)
        for leaf in self.module.modules():
            if isinstance(leaf, nn.Linear):
                host = leaf._parameters.pop("weight").data  # type: ignore[union-attr]
                leaf.forward = lambda x, host=host: nn.functional.linear(x, host.clone())  # type: ignore[method-assign]
        return self.module


class OneLogitsBuffer(StreamingFake):
    """Every call's logits come in the same memory."""

    name = "one-logits-buffer"

    def open(self) -> Any:
        module, buffer = super().open(), torch.zeros(1, 4096, 97, dtype=self.model.dtype)

        def keep(_: Any, __: Any, output: Tensor) -> Tensor:
            place = buffer[:, : output.shape[1]]
            return place.copy_(output)

        module.lm_head.register_forward_hook(keep)
        return module


class Unowned(StreamingFake):
    """What is called is a module that does not own the model it calls."""

    name = "unowned"

    def open(self) -> Any:
        inner = [super().open()]

        class Wrapper(nn.Module):
            def forward(self, *args: Any, **options: Any) -> Any:
                return inner[0](*args, **options)

        return Wrapper()


class LoopsOverBlocks(_Quiet):
    """Calls one block after the other, each a module of its own that nobody owns, as AirLLM does."""

    name = "loops-over-blocks"

    def open(self) -> Any:
        whole = self.model.resident(self.device)
        self.blocks = list(whole.model.layers)
        self.host = [{name: value.data for name, value in block.named_parameters()} for block in self.blocks]
        whole.model.layers = nn.ModuleList()
        self.module = whole
        return self.call

    def call(self, ids: Tensor, past_key_values: Any = None, use_cache: bool = True) -> Any:
        from transformers import DynamicCache
        from transformers.masking_utils import create_causal_mask

        whole, cache = self.module, past_key_values if past_key_values is not None else DynamicCache()
        hidden = whole.model.embed_tokens(ids)
        start = cache.get_seq_length()
        positions = torch.arange(start, start + ids.shape[1])[None]
        mask = create_causal_mask(
            config=whole.config,
            inputs_embeds=hidden,
            attention_mask=None,
            past_key_values=cache,
            position_ids=positions,
        )
        angles = whole.model.rotary_emb(hidden, position_ids=positions)
        options = {
            "position_embeddings": angles,
            "past_key_values": cache,
            "use_cache": True,
            "position_ids": positions,
        }
        for block, weights in zip(self.blocks, self.host, strict=True):
            for name, value in weights.items():
                block.get_parameter(name).data = value.clone()
            output = block(hidden, attention_mask=mask, **options)
            hidden = output[0] if isinstance(output, tuple) else output
            for name in weights:
                block.get_parameter(name).data = torch.empty(0)
        return SimpleNamespace(logits=whole.lm_head(whole.model.norm(hidden)), past_key_values=cache)


class WorkerThread(StreamingFake):
    """All forwards run in a thread of the system's own."""

    name = "worker-thread"

    def open(self) -> Any:
        module, self.pool = super().open(), ThreadPoolExecutor(1)

        @torch.no_grad()
        def run(*args: Any, **options: Any) -> Any:
            return module(*args, **options)

        return lambda *args, **options: self.pool.submit(run, *args, **options).result()

    def close(self) -> None:
        self.pool.shutdown()
        super().close()


class _FusedGates(nn.Module):
    """Gate and up as one matrix, then down."""

    def __init__(self, mlp: Any, dtype: torch.dtype) -> None:
        super().__init__()
        rows = mlp.gate_proj.weight.shape
        self.gate_up = nn.Parameter(torch.empty(2 * rows[0], rows[1], dtype=dtype), requires_grad=False)
        self.down = mlp.down_proj
        self.act = mlp.act_fn

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = nn.functional.linear(hidden, self.gate_up).chunk(2, -1)
        return self.down(self.act(gate) * up)  # type: ignore[no-any-return]


class FusesGates(StreamingFake):
    """Gate and up are one weight of the system's own; all layers share its memory."""

    name = "fuses-gates"

    def open(self) -> Any:
        module = super().open()
        fused = _FusedGates(module.model.layers[0].mlp, self.model.dtype).gate_up
        for index, block in enumerate(self.blocks):
            own = self.host[index]
            pair = [own.pop(f"mlp.{name}_proj.weight") for name in ("gate", "up")]
            block.mlp = _FusedGates(block.mlp, self.model.dtype)
            block.mlp.gate_up = fused
            down = own.pop("mlp.down_proj.weight")
            own["mlp.down.weight"] = down
            block.register_forward_pre_hook(lambda *_, pair=pair: self.join(fused, pair))
        return module

    def join(self, fused: Tensor, pair: list[Tensor]) -> None:
        fused.copy_(torch.cat(pair))

    def predicted_bytes_per_pass(self) -> int | None:
        return None

    def claimed_bytes(self) -> int | None:
        return None


HONEST = (
    LoadsAndDrops, EverNewBuffers, NewMappings, OneMapping, ResizesStorages, CopiesForEachCall, OneLogitsBuffer,
    Unowned, LoopsOverBlocks, WorkerThread, FusesGates,
)  # fmt: skip
