"""Models of a few thousand weights as transformers builds them, what they compute, and what hooks might leave."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tests.architectures import CONFIGS, VOCABULARY


def build(name: str, dtype: torch.dtype = torch.float32, *, layers: int | None = None) -> nn.Module:
    torch.manual_seed(7)
    config = copy.deepcopy(CONFIGS[name])
    if layers is not None:
        config.num_hidden_layers = layers
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return model


def prompt(length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor) -> Tensor:
    result: Tensor = model(ids).logits
    return result


@torch.no_grad()
def decode(model: Any, ids: Tensor) -> Tensor:
    """Greedy generation through the KV cache; returns the logits of each new token."""
    output = model.generate(ids, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
    return torch.stack(output.logits)


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that hooks might leave behind: objects, bytes, strides, devices, hooks, attributes."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {
        "tensors": {
            name: (id(t), t.device, t.stride(), t.requires_grad, t.detach().flatten().view(torch.uint8).tolist())
            for name, t in tensors.items()
        },
        "modules": {
            name: (sorted(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
            for name, module in model.named_modules()
        },
    }
