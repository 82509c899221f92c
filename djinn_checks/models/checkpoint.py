"""A checkpoint opened: where its weights and buffers are read from, and what its tables say about ties.

safetensors are read tensor by tensor where they are the module's own parameters; anything else transformers loads
whole. Either way the result is what `from_pretrained` would have in memory, which the tests hold bit for bit.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelNotFoundError
from djinn_checks.models.safetensors_weights import (
    Aliases,
    CheckpointWeights,
    SafetensorsWeights,
    StoredTensor,
    find_safetensors,
    read_headers,
    refuse_quantized,
    stored_names,
)

_log = logging.getLogger(__name__)

Build = Callable[..., nn.Module]
"""`build(untied=names)` returns the module of the configuration, its parameters on `meta`."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder or a hub id stores for a module."""

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    untied: frozenset[str]


def tied_names(module: nn.Module) -> dict[int, tuple[list[str], nn.Parameter]]:
    """Return every parameter with all its names, first name first."""
    found: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return found


def open_checkpoint(spec: str, source: str, *, build: Build, dtype: torch.dtype) -> Checkpoint:
    """Find where each weight and each persistent buffer of a module is stored.

    Args:
        spec: the model's name as it was given, for messages.
        source: a folder or a hub id.

    Raises:
        ModelNotFoundError: there are no weights.
        ModelCorruptError: a file cannot be read, or a weight is missing or of another shape than the module's.
        ModelUnsupportedError: the weights are quantized.
    """
    files = find_safetensors(source)
    if not files and Path(source).is_dir() and not any(Path(source).glob("*.bin*")):
        raise ModelNotFoundError(
            f"model {spec!r}: has a configuration and no weights; expected model.safetensors (or its shards and index) "
            f"or pytorch_model.bin in that folder. For random weights: random:{Path(source) / 'config.json'}"
        )
    stored = read_headers(files)
    refuse_quantized(stored.values())
    skeleton = build()
    untied = _find_untied(skeleton, stored)
    if untied:
        skeleton = build(untied=untied)
    if files and not _is_converted_on_load(skeleton):
        found = _locate(skeleton, files, stored, untied)
        if found is not None:
            _log.info("model %r: %d weights are read one by one from %d file(s)", spec, len(found.weights), len(files))
            return found
    if not files and any(len(names) > 1 for names, _ in tied_names(skeleton).values()):
        return _open_pickled(spec, source, build, dtype)
    _log.info("model %r: transformers loads the whole checkpoint into host memory at the first access", spec)
    return _open_whole(lambda: _load_whole(spec, source, dtype), skeleton, untied)


def _locate(
    skeleton: nn.Module, files: list[Path], stored: Mapping[str, StoredTensor], untied: frozenset[str]
) -> Checkpoint | None:
    """Serve weights and buffers tensor by tensor; None if some parameter is not stored under its own name."""
    prefix = str(skeleton.base_model_prefix)
    aliases, kept = _aliases(skeleton), _buffer_aliases(skeleton)
    located = SafetensorsWeights.locate(files, stored, aliases, prefix)
    if located is None:
        return None
    names = {name: stored_names([name], prefix, stored) for name in kept}
    buffers = {name: stored[found[0]] for name, found in names.items() if found}
    read = {tensor.name for tensor in (*located.values(), *buffers.values())}
    read |= {name for alias, _ in aliases.values() for name in stored_names(alias, prefix, stored)}
    _warn_of_unused(skeleton, stored.keys() - read)
    return Checkpoint(
        weights=SafetensorsWeights(located, aliases), buffers=SafetensorsWeights(buffers, kept), untied=untied
    )


def _open_whole(load: Callable[[], Any], skeleton: nn.Module, untied: frozenset[str]) -> Checkpoint:
    """Serve weights and buffers of a module that transformers loads when the first of them is asked for."""
    loaded: list[Any] = []

    def read() -> Mapping[str, Tensor]:
        if not loaded:
            loaded.append(load())
        module = loaded[0]
        tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
        return {name: value.detach() for name, value in tensors.items()}

    return Checkpoint(
        weights=CheckpointWeights(read, _aliases(skeleton)),
        buffers=CheckpointWeights(read, _buffer_aliases(skeleton)),
        untied=untied,
    )


def _open_pickled(spec: str, source: str, build: Build, dtype: torch.dtype) -> Checkpoint:
    """Open a pickled checkpoint of a model with ties at once: only the loaded module tells whether they hold."""
    _log.info("model %r: transformers loads the whole checkpoint into host memory now", spec)
    module = _load_whole(spec, source, dtype)
    loaded = {name: group for group in (names for names, _ in tied_names(module).values()) for name in group}
    apart = {
        name for names, _ in tied_names(build()).values() for name in names[1:] if loaded[name] is not loaded[names[0]]
    }
    return _open_whole(lambda: module, build(untied=apart), frozenset(apart))


def _find_untied(module: nn.Module, stored: Mapping[str, StoredTensor]) -> frozenset[str]:
    """Return the names that the configuration ties to another, and that are stored with values of their own."""
    apart = set()
    for names, _ in tied_names(module).values():
        there = {name: stored_names([name], str(module.base_model_prefix), stored) for name in names}
        kept = [name for name in names if there[name]]
        for name in kept[1:]:
            first, other = stored[there[kept[0]][0]], stored[there[name][0]]
            if first.shape != other.shape or not torch.equal(first.read(), other.read()):
                apart.add(name)
                _log.warning("%s and %s are stored with different values, so they are not tied", kept[0], name)
    return frozenset(apart)


def _aliases(module: nn.Module) -> Aliases:
    return {names[0]: (names, parameter) for names, parameter in tied_names(module).values()}


def _buffer_aliases(module: nn.Module) -> Aliases:
    """Return the persistent buffers, which a checkpoint stores beside the parameters."""
    persistent = module.state_dict(keep_vars=True).keys()
    return {name: ([name], buffer) for name, buffer in module.named_buffers() if name in persistent}


def _warn_of_unused(module: Any, names: Collection[str]) -> None:
    """Say which stored tensors nothing in the module uses, but for those that its class is known to leave alone."""
    ignored = [re.compile(pattern) for pattern in getattr(module, "_keys_to_ignore_on_load_unexpected", None) or ()]
    unused = sorted(name for name in names if not any(pattern.search(name) for pattern in ignored))
    if unused:
        _log.warning(
            "%d stored tensors are used by nothing in %s, the first is %s; is the configuration that of these weights?",
            len(unused), type(module).__name__, unused[0],
        )  # fmt: skip


def _is_converted_on_load(module: nn.Module) -> bool:
    """Tell whether transformers computes some parameters from stored tensors, possibly of the same name and shape."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter
    except ImportError:  # transformers 4 stores parameters as they are
        return False
    return any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(module, add_legacy=False))


def _load_whole(spec: str, source: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        module, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise ModelNotFoundError(f"model {spec!r}: its weights cannot be found ({error})") from error
    except (RuntimeError, ValueError) as error:
        raise ModelCorruptError(f"model {spec!r}: transformers cannot load its weights ({error})") from error
    # transformers only warns of weights that are missing or of another shape, and fills them with random values.
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(key[0]) for key in report["mismatched_keys"])
    if missing or mismatched:
        first, problem = (
            (missing[0], "is missing") if missing else (mismatched[0], "has another shape than the module's")
        )
        raise ModelCorruptError(
            f"model {spec!r}: weight {first!r} {problem} in the checkpoint ({len(missing)} missing, {len(mismatched)} "
            "of another shape); it is damaged or of another model, fetch it again"
        )
    _warn_of_unused(module, report["unexpected_keys"])
    return module
