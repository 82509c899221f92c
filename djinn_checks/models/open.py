"""A name becomes a model: its configuration at once, its weights one tensor at a time when they are asked for.

    smollm2            SmolLM2-135M-Instruct, bundled by a package of the index (see `smollm2.py`)
    random:<shape>     llama-2-7b, llama-2-13b, llama-2-70b, tiny, or a path to a config.json; random weights
    <folder>           a local Hugging Face folder
    <owner>/<name>     a model of the hub

A model is built with its parameters on `meta` and its buffers real, computed on the CPU as usual: a rotary
table computed on another device differs in its last bits, and so do the logits. What `from_pretrained` does
beside copying parameters is done here too: buffers that a checkpoint stores are read from it, weights that a
class keeps in float32 stay wide, and two tables that the configuration ties and the file stores with different
values are not tied. The attention is the one that transformers chooses: "sdpa" if the class has it, else "eager",
the same for skeleton and resident. Code from a model's repository is never run.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models.checkpoint import open_checkpoint, tied_names
from djinn_checks.models.random_weights import RandomWeights
from djinn_checks.models.smollm2 import smollm2_folder

SHAPES = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "tiny")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A causal language model that has not been loaded."""

    name: str
    """The spec it was opened with."""
    config: Any
    """`transformers.PretrainedConfig`."""
    dtype: torch.dtype
    weights: Mapping[str, Tensor]
    """Lazy: each access reads or makes one contiguous tensor in the data type of its parameter, which is `dtype` but
    for those that the class keeps in float32. Keys are the names of `skeleton().named_parameters()`, a tied weight
    under its first name only."""
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    """Lazy: the persistent buffers that the checkpoint stores, by name. Those of a random model are its class's."""
    untied: frozenset[str] = frozenset()
    """Parameters that the configuration would tie and whose stored values differ from those they would be tied to."""
    tokenizer: Any | None = None
    """`transformers.PreTrainedTokenizerBase`; None for random models."""

    def skeleton(self) -> nn.Module:
        """Return the module with its parameters on `meta` and its buffers real, on the CPU, ready for inference."""
        module = _build(self.config, self.dtype, self.untied)
        for name, value in self.buffers.items():
            module.get_buffer(name).copy_(value)
        return module

    def resident(self, device: torch.device) -> nn.Module:
        """Return the module with all weights on `device`, and its buffers copied there.

        Raises:
            ModelCorruptError: a weight is missing from the checkpoint, or has another shape than the module's.
        """
        module = self.skeleton()
        with torch.no_grad():
            for parameter_names, original in tied_names(module).values():
                value = self.weights[parameter_names[0]]
                _check_shape(parameter_names[0], original.shape, value.shape)
                loaded = nn.Parameter(torch.empty_like(original, device=device), requires_grad=False)
                loaded.copy_(value)
                for name in parameter_names:
                    owner, _, leaf = name.rpartition(".")
                    module.get_submodule(owner)._parameters[leaf] = loaded
        return module.to(device)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all parameters, tied ones once."""
        parameters = _build(self.config, self.dtype, self.untied).parameters()
        return sum(parameter.numel() * parameter.element_size() for parameter in parameters)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return the first `max_tokens` token ids of a text.

        Random models have no tokenizer: their tokens are the text's UTF-8 bytes, spread over the vocabulary.
        """
        if self.tokenizer is not None:
            return list(self.tokenizer(text)["input_ids"][:max_tokens])
        vocabulary = int(self.config.vocab_size)
        return [(byte * 2654435761 + position) % vocabulary for position, byte in enumerate(text.encode())][:max_tokens]

    def decode(self, ids: Iterable[int]) -> str | None:
        """Return the text of token ids, or None if the model has no tokenizer."""
        return None if self.tokenizer is None else str(self.tokenizer.decode(list(ids)))


def open_model(spec: str, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Model:
    """Read a model's configuration and tokenizer; weights come later, as they are asked for.

    Args:
        spec: smollm2, random:<shape>, a folder, or a hub id.
        device: where random weights are made; others are read into host memory.
        seed: of random weights.

    Raises:
        ModelNotFoundError: nothing answers to `spec`.
        ModelCorruptError: what answers is damaged.
        ModelError: the model would need code from its repository.
    """
    if spec.startswith("random:"):
        config = _shape_config(spec)
        made = RandomWeights(dict(_build(config, dtype).named_parameters()), device=device, seed=seed)
        return Model(name=spec, config=config, dtype=dtype, weights=made)
    source = str(smollm2_folder()) if spec == "smollm2" else spec
    config, tokenizer = _read_config(spec, source), _read_tokenizer(spec, source)
    stored = open_checkpoint(spec, source, build=partial(_build, config, dtype), dtype=dtype)
    return Model(
        name=spec,
        config=config,
        dtype=dtype,
        weights=stored.weights,
        buffers=stored.buffers,
        untied=stored.untied,
        tokenizer=tokenizer,
    )


def _shape_config(spec: str) -> Any:
    from transformers import CONFIG_MAPPING

    shape = spec.removeprefix("random:")
    if shape not in SHAPES:
        if not Path(shape).is_file():
            raise ModelNotFoundError(f"{spec}: no such shape; known: {', '.join(SHAPES)}, or a path to a config.json")
        return _read_config(spec, shape)
    values = json.loads((resources.files("djinn_checks.models") / "shapes" / f"{shape}.json").read_text())
    return CONFIG_MAPPING[values.pop("model_type")](**values)


def _read_config(spec: str, source: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise _config_error(spec, source, error) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(
            f"model {spec!r}: expected plain weights, its configuration says that they are quantized; "
            "quantized checkpoints are not supported, choose the unquantized one"
        )
    return config


def _config_error(spec: str, source: str, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelError(
            f"model {spec!r} needs code from its own repository, which is never run here; "
            "choose a model whose architecture transformers itself implements"
        )
    reason = str(error).splitlines()[0]
    if Path(source).is_file() or (Path(source) / "config.json").is_file() or not isinstance(error, OSError):
        return ModelCorruptError(f"model {spec!r}: its configuration cannot be read ({reason})")
    missing = (
        "has no config.json" if Path(source).is_dir() else "no such folder, and the hub has or gives no such model"
    )
    shapes = ", ".join(f"random:{shape}" for shape in SHAPES)
    return ModelNotFoundError(
        f"model {spec!r}: {missing} ({reason}); known without a network: smollm2, {shapes}, "
        "random:<path to a config.json>, or a local folder"
    )


def _read_tokenizer(spec: str, source: str) -> Any | None:
    from transformers import AutoTokenizer

    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _TOKENIZER_FILES):
        return None  # weights alone: prompts are then bytes, as for random models
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelCorruptError(
            f"model {spec!r}: its tokenizer cannot be read ({reason}); install what it needs, or remove the "
            "tokenizer's files from a local copy to check with bytes as tokens"
        ) from error


def _build(config: Any, dtype: torch.dtype, untied: Collection[str] = ()) -> nn.Module:
    """Return a module as `from_pretrained` would build it, its parameters on `meta`, those named in `untied` apart."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    try:
        with init_empty_weights(include_buffers=False):
            module: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, trust_remote_code=False)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ModelError(
            f"a {config.model_type!r} model: expected a causal language model, which transformers has none of that "
            "type; choose a decoder-only model"
        ) from error
    _keep_wide(module, dtype)
    module.tie_weights()
    for name in untied:
        _replace(module, name, torch.empty_like(module.get_parameter(name)))
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()  # type: ignore[no-any-return]


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


def _check_shape(name: str, expected: torch.Size, came: torch.Size) -> None:
    if expected != came:
        raise ModelCorruptError(f"weight {name!r}: expected shape {tuple(expected)}, the checkpoint has {tuple(came)}")
