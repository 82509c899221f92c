"""A configuration becomes a module as `from_pretrained` would build it, and what cannot be checked is refused there.

Everything that is refused here is refused before a weight is read, by every check and the server alike, in the same
sentence.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelUnsupportedError
from djinn_checks.loading import uncollected
from djinn_checks.models.dry_run import DryRun, describe_written, run_dry


def build_module(config: Any, dtype: torch.dtype, untied: Collection[str] = ()) -> nn.Module:
    """Return a module as `from_pretrained` would build it, its parameters on `meta`, those named in `untied` apart."""
    with uncollected():  # what is imported here and by the first model of a class
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

    with uncollected(), init_empty_weights(include_buffers=False):
        module: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, trust_remote_code=False)
    _keep_wide(module, dtype)
    module.tie_weights()
    for name in untied:
        _replace(module, name, torch.empty_like(module.get_parameter(name)))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()  # type: ignore[no-any-return]


def vet_module(spec: str, config: Any, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, DryRun]:
    """Build a module, run it dry and refuse it if no check could decide about it.

    Args:
        spec: the model's name as it was given, for messages.
        device: where the module runs dry if it has to compute with values.

    Raises:
        ModelCorruptError: the configuration makes no module.
        ModelUnsupportedError: it is no causal language model, does not run on token ids alone, or writes its own
            weights while it runs.
    """
    module = _build_or_refuse(spec, config, dtype)
    dry = run_dry(module, device)
    kind = type(module).__name__
    if dry.written:
        raise ModelUnsupportedError(f"model {spec!r}: {describe_written(kind, dry.written)}")
    if dry.failure:
        raise ModelUnsupportedError(
            f"model {spec!r}: a forward of {kind} on token ids alone fails, whatever its weights ({dry.failure}); "
            "correct its configuration, or choose a model that takes text only"
        )
    return module, dry


def _build_or_refuse(spec: str, config: Any, dtype: torch.dtype) -> nn.Module:
    try:
        return build_module(config, dtype)
    except ImportError as error:
        raise ModelUnsupportedError(f"model {spec!r}: its class needs a package that is missing ({error})") from error
    except Exception as error:  # a value that a class trips over while it is built may raise anything
        if "Unrecognized configuration class" in str(error):
            raise ModelUnsupportedError(
                f"model {spec!r} of type {config.model_type!r}: expected a causal language model, which transformers "
                "has none of that type; choose a decoder-only model"
            ) from error
        reason = " ".join(str(error).split())[:200] or "without words"
        raise ModelCorruptError(
            f"model {spec!r}: no module of type {config.model_type!r} can be built from its configuration "
            f"({type(error).__name__}: {reason}); correct its values"
        ) from error


def _keep_wide(module: Any, dtype: torch.dtype) -> None:
    """Give those weights float32 that the class keeps in it, whatever type the others have."""
    if not hasattr(module, "_get_dtype_plan"):  # transformers 4
        return
    plan = module._get_dtype_plan(dtype)  # parts of names, with * for anything, each with its data type
    patterns = [(re.compile(part.replace("*", ".*")), kept) for part, kept in plan.items()]
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        for pattern, kept in patterns:
            if pattern.search(name):
                _replace(module, name, tensor.to(kept))


def _replace(module: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    holder = module.get_submodule(owner)
    if leaf in holder._parameters:
        holder._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    elif leaf not in holder._non_persistent_buffers_set:
        holder._buffers[leaf] = value
