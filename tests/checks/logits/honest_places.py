"""Systems whose parameters stay where they are while one layer's weights after the other pass through them."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.systems.base import System


class OneSetOfPlaces(System):
    """All blocks have the same parameters, which are filled before each block runs."""

    name = "one-set-of-places"

    def open(self) -> Any:
        self.moved = 0
        self.module: Any = self.model.resident(self.device)
        self.blocks = list(self.module.model.layers)
        self.host = [{name: value.data for name, value in block.named_parameters()} for block in self.blocks]
        self.places = {name: nn.Parameter(value.clone(), requires_grad=False) for name, value in self.host[0].items()}
        for index, block in enumerate(self.blocks):
            for name, place in self.places.items():
                owner, _, leaf = name.rpartition(".")
                block.get_submodule(owner)._parameters[leaf] = place
            block.register_forward_pre_hook(lambda *_, index=index: self.fill(index))
        return self.module

    def fill(self, index: int) -> None:
        for name, value in self.host[index].items():
            self.write(self.places[name], value)
            self.moved += value.nbytes

    def write(self, place: Tensor, value: Tensor) -> None:
        place.data.copy_(value)

    def claimed_bytes(self) -> int | None:
        return self.moved

    def close(self) -> None:
        self.module, self.places, self.host = None, {}, []


class OneBlock(OneSetOfPlaces):
    """One block serves all layers, one after the other."""

    name = "one-block"

    def open(self) -> Any:
        module, count = super().open(), len(self.blocks)
        block, self.calls = self.blocks[0], 0
        block._forward_pre_hooks.clear()
        block.register_forward_pre_hook(lambda *_: self.turn(block, count))
        module.model.layers = nn.ModuleList([block] * count)
        return module

    def turn(self, block: Any, count: int) -> None:
        block.self_attn.layer_idx = self.calls % count
        self.fill(self.calls % count)
        self.calls += 1


class RingOfBlocks(OneSetOfPlaces):
    """Four blocks serve six layers in turn, and go on where the last forward ended."""

    name = "ring-of-blocks"
    budget_fraction = 0.9
    count = 4

    def open(self) -> Any:
        module, self.calls = self.model.resident(self.device), 0
        self.module, self.moved, layers = module, 0, list(module.model.layers)
        self.host = [{name: value.data for name, value in layer.named_parameters()} for layer in layers]
        ring = layers[: self.count]
        for block in ring:
            for value in block.parameters():
                value.data = value.data.clone()
            block.register_forward_pre_hook(lambda block, _: self.turn(block))
        module.register_forward_pre_hook(lambda *_: self.lay_out(module, ring))
        return module

    def lay_out(self, module: Any, ring: list[Any]) -> None:
        count = len(self.host)
        module.model.layers = nn.ModuleList([ring[(self.calls + at) % len(ring)] for at in range(count)])

    def turn(self, block: Any) -> None:
        layer = block.self_attn.layer_idx = self.calls % len(self.host)
        for name, value in self.host[layer].items():
            block.get_parameter(name).data.copy_(value)
            self.moved += value.nbytes
        self.calls += 1


class FetchesAheadByChance(OneSetOfPlaces):
    """Two sets of places. Whether the next block is fetched before it is wanted is left to chance, as to a thread."""

    name = "fetches-ahead-by-chance"

    def open(self) -> Any:
        module, self.chance, self.ready = super().open(), random.Random(0), dict[int, int]()
        self.sets = [self.places, {name: nn.Parameter(value.clone()) for name, value in self.places.items()}]
        self.plan = sum(value.nbytes for weights in self.host for value in weights.values())
        for index, block in enumerate(self.blocks):
            block.register_forward_hook(lambda *_, index=index: self.go_on(index))
        return module

    def fill(self, index: int) -> None:
        if index not in self.ready:
            self.fetch(index, into=0)
        places = self.sets[self.ready.pop(index)]
        for name, place in places.items():
            owner, _, leaf = name.rpartition(".")
            self.blocks[index].get_submodule(owner)._parameters[leaf] = place

    def go_on(self, index: int) -> None:
        if self.chance.random() < 0.5:
            self.fetch((index + 1) % len(self.blocks), into=1)

    def fetch(self, index: int, *, into: int) -> None:
        self.places, self.ready[index] = self.sets[into], into
        super().fill(index)

    def predicted_bytes_per_pass(self) -> int | None:
        return self.plan


class ManyCopiesAtOnce(OneSetOfPlaces):
    """One function copies all weights of a block, as sharded data parallelism does."""

    name = "many-copies-at-once"

    @torch.no_grad()
    def fill(self, index: int) -> None:
        weights = self.host[index]
        torch._foreach_copy_([self.places[name] for name in weights], list(weights.values()))
        self.moved += sum(value.nbytes for value in weights.values())


class ZeroesFirst(OneSetOfPlaces):
    """Empties a place, and looks whether it is empty, before it is filled."""

    name = "zeroes-first"

    @torch.no_grad()
    def write(self, place: Tensor, value: Tensor) -> None:
        place.zero_()
        torch.equal(place, torch.zeros_like(place))
        place.copy_(value)


class DecodesInto(OneSetOfPlaces):
    """A function decodes a table's entries into a place that it is given as `out`."""

    name = "decodes-into"

    @torch.no_grad()
    def write(self, place: Tensor, value: Tensor) -> None:
        table, codes = value.unique(return_inverse=True)
        torch.take(table, codes, out=place)


class _Encoded(nn.Module):
    """A linear layer to which a code comes before each call; its parameter `weight` is the place for that."""

    def __init__(self, weight: Tensor, places: dict[int, nn.Parameter]) -> None:
        super().__init__()
        self.shape, self.dtype = weight.shape, weight.dtype
        self.code = [weight.contiguous().view(torch.uint8).flatten() ^ 0x55]
        empty = nn.Parameter(torch.empty_like(self.code[0]), requires_grad=False)
        self.weight = places.setdefault(weight.nbytes, empty)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.copy_(self.code[0])
        decoded = (self.weight ^ 0x55).view(self.dtype).view(self.shape)
        return nn.functional.linear(x, decoded)


class EncodedParameters(OneSetOfPlaces):
    """Linear layers have another form of their weights under the weights' name, and decode it for each call."""

    name = "encoded-parameters"
    layer: type[_Encoded] = _Encoded

    def open(self) -> Any:
        module, places = super().open(), dict[int, nn.Parameter]()
        for index, block in enumerate(self.blocks):
            for name in ("gate_proj", "up_proj", "down_proj"):
                setattr(block.mlp, name, self.layer(self.host[index].pop(f"mlp.{name}.weight"), places))
        return module

    def claimed_bytes(self) -> int | None:
        return None


class _OnePlace(nn.Module):
    """Gate and up pass through one place, one after the other, within one call."""

    def __init__(self, mlp: Any, *, owned: bool) -> None:
        super().__init__()
        self.host = [mlp.gate_proj.weight.data, mlp.up_proj.weight.data]
        self.down, self.act = mlp.down_proj, mlp.act_fn
        place = torch.empty_like(self.host[0])
        self.place = nn.Parameter(place, requires_grad=False) if owned else place

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (nn.functional.linear(x, self.fetch(weight)) for weight in self.host)
        return self.down(self.act(gate) * up)  # type: ignore[no-any-return]

    def fetch(self, weight: Tensor) -> Tensor:
        self.place.data.copy_(weight)
        return self.place


class _SameShapeOfCode(_Encoded):
    """Likewise, with a code that has the weight's own shape, in whole numbers."""

    def __init__(self, weight: Tensor, places: dict[int, nn.Parameter]) -> None:
        super().__init__(weight, {})
        whole = {2: torch.int16, 4: torch.int32}[weight.element_size()]
        self.code = [weight.contiguous().view(whole) ^ 0x55]
        empty = nn.Parameter(torch.empty_like(self.code[0]), requires_grad=False)
        self.weight = places.setdefault(hash(tuple(weight.shape)), empty)


class EncodedInTheSameShape(EncodedParameters):
    """The code looks as the weight does, but for its numbers."""

    name = "encoded-in-the-same-shape"
    layer = _SameShapeOfCode


class OnePlaceInACall(OneSetOfPlaces):
    """Two weights of one shape are used from one place within one call; nobody owns it."""

    name = "one-place-in-a-call"
    owned = False

    def open(self) -> Any:
        module = super().open()
        for index, block in enumerate(self.blocks):
            for name in ("gate_proj", "up_proj"):
                block.mlp.get_submodule(name).weight = nn.Parameter(
                    self.host[index].pop(f"mlp.{name}.weight"), requires_grad=False
                )
            block.mlp = _OnePlace(block.mlp, owned=self.owned)
        return module

    def claimed_bytes(self) -> int | None:
        return None


class _GatesPlace(nn.Module):
    """Up passes through the place of the gate, under the gate's name."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.host = [mlp.gate_proj.weight.data, mlp.up_proj.weight.data]
        self.gate_proj, self.down_proj, self.act = mlp.gate_proj, mlp.down_proj, mlp.act_fn
        self.gate_proj.weight = nn.Parameter(torch.empty_like(self.host[0]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = (nn.functional.linear(x, self.fetch(weight)) for weight in self.host)
        return self.down_proj(self.act(gate) * up)  # type: ignore[no-any-return]

    def fetch(self, weight: Tensor) -> Tensor:
        self.gate_proj.weight.data.copy_(weight)
        return self.gate_proj.weight


class OneKnownPlaceInACall(OneSetOfPlaces):
    """Two weights are used from one place within one call, and the place is that of one of them."""

    name = "one-known-place-in-a-call"

    def open(self) -> Any:
        module = super().open()
        for index, block in enumerate(self.blocks):
            for name in ("gate_proj", "up_proj"):
                weight = self.host[index].pop(f"mlp.{name}.weight")
                block.mlp.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
            block.mlp = _GatesPlace(block.mlp)
        return module

    def claimed_bytes(self) -> int | None:
        return None


class OneOwnedPlaceInACall(OnePlaceInACall):
    """Likewise, and the place is a parameter with a name that the model does not have."""

    name = "one-owned-place-in-a-call"
    owned = True


IN_PLACE = (
    OneSetOfPlaces, OneBlock, RingOfBlocks, FetchesAheadByChance, ManyCopiesAtOnce, ZeroesFirst, DecodesInto,
    EncodedParameters, EncodedInTheSameShape, OnePlaceInACall, OneOwnedPlaceInACall, OneKnownPlaceInACall,
)  # fmt: skip
