"""On a GPU: a model of 138 GB, larger than the GPU is allowed to hold, says what it says layer by layer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_checks.attention import reproducible_attention
from djinn_checks.engine.segments import Point, cut_model
from djinn_checks.models.open import Model, open_model
from djinn_checks.systems.ring import RingSystem
from djinn_checks.units import GB

pytestmark = pytest.mark.gpu

BUDGET = 48 * GB


@contextmanager
def layer_by_layer(model: Model, device: torch.device) -> Iterator[nn.Module]:
    """Give the model with each layer's weights made right before it runs and dropped after: a resident reference
    that never holds more than one layer, and shares nothing with the engine but the names of the points."""
    module = model.skeleton()
    for name, buffer in list(module.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._buffers[leaf] = buffer.to(device)
    hooks = []

    def fill(point: Point) -> Any:
        def hook(inner: nn.Module, args: Any) -> None:
            for name, parameter in list(inner.named_parameters()):
                if parameter.is_meta:
                    owner, _, leaf = name.rpartition(".")
                    value = nn.Parameter(model.weights[f"{point.name}.{name}"], requires_grad=False)
                    inner.get_submodule(owner)._parameters[leaf] = value

        return hook

    def empty(inner: nn.Module, args: Any, output: Any) -> None:
        inner.to("meta")

    for point in cut_model(module).points:
        inner = module.get_submodule(point.name)
        assert not list(inner.buffers()), "a layer with buffers would lose them"
        hooks += [inner.register_forward_pre_hook(fill(point)), inner.register_forward_hook(empty)]
    yield module
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def prefill_and_decode(module: Any, ids: Tensor, forced: Tensor | None) -> Tensor:
    """Logits of a prompt and of one decoded token, on the CPU: [T + 1, V]."""
    output = module(ids, use_cache=True)
    token = output.logits[:, -1:].argmax(-1) if forced is None else forced
    after = module(token, past_key_values=output.past_key_values, use_cache=True)
    return torch.cat([output.logits[0].cpu(), after.logits[0].cpu()])


def test_seventy_billion_parameters_through_48_gb_are_bit_equal_to_a_layer_by_layer_reference() -> None:
    device = torch.device("cuda", 0)
    model = open_model("random:llama-2-70b", dtype=torch.float16, device=device)
    ids = torch.randint(0, model.config.vocab_size, (1, 48), generator=torch.Generator().manual_seed(1)).to(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(60 * GB / total, device)
    try:
        with reproducible_attention():
            start = time.monotonic()
            with layer_by_layer(model, device) as module:
                expected = prefill_and_decode(module, ids, None)
            print(f"\nreference, layer by layer: {time.monotonic() - start:.0f} s")
            forced = expected[ids.shape[1] - 1].argmax()[None, None].to(device)
            torch.cuda.reset_peak_memory_stats()
            start = time.monotonic()
            with RingSystem(model, device=device, budget_bytes=BUDGET) as system:
                module = system.open()
                print(f"opened in {time.monotonic() - start:.0f} s: {len(system.plan.resident)} segments stay")
                for _ in range(3):
                    assert torch.equal(prefill_and_decode(module, ids, forced), expected)
            peak = torch.cuda.max_memory_allocated()
            print(f"peak {peak:,} of a budget of {BUDGET:,}; {expected.numel():,} logits equal, three times")
            assert peak <= 1.05 * BUDGET
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
