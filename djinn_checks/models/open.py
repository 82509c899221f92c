"""A name becomes a model: its configuration at once, its weights one tensor at a time when they are asked for.

    smollm2            SmolLM2-135M-Instruct, bundled by a package of the index (see `smollm2.py`)
    random:<shape>     llama-2-7b, llama-2-13b, llama-2-70b, tiny, or a path to a config.json; random weights
    <folder>           a local Hugging Face folder
    <owner>/<name>     a model of the hub

A model is built with its parameters on `meta` and its buffers real, computed on the CPU as usual: a rotary
table computed on another device differs in its last bits, and so do the logits. The attention is the one
that transformers chooses: "sdpa" if the class has it, else "eager", the same for skeleton and resident. Code
from a model's repository is never run.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.models.random_weights import RandomWeights
from djinn_checks.models.safetensors_weights import CheckpointWeights, SafetensorsWeights, find_safetensors
from djinn_checks.models.smollm2 import smollm2_folder

SHAPES = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "tiny")

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "spiece.model")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A causal language model that has not been loaded."""

    name: str
    """The spec it was opened with."""
    config: Any
    """`transformers.PretrainedConfig`."""
    dtype: torch.dtype
    weights: Mapping[str, Tensor]
    """Lazy: each access reads or makes one contiguous tensor in `dtype`. Keys are the names of
    `skeleton().named_parameters()`, a tied weight under its first name only."""
    tokenizer: Any | None = None
    """`transformers.PreTrainedTokenizerBase`; None for random models."""

    def skeleton(self) -> nn.Module:
        """Return the module with its parameters on `meta` and its buffers real, on the CPU, ready for inference."""
        return _build(self.config, self.dtype)

    def resident(self, device: torch.device) -> nn.Module:
        """Return the module with all weights on `device`, and its buffers copied there.

        Raises:
            ModelCorruptError: a weight is missing from the checkpoint, or has another shape than the module's.
        """
        module = self.skeleton()
        with torch.no_grad():
            for parameter_names, original in _tied_names(module).values():
                value = self.weights[parameter_names[0]]
                _check_shape(parameter_names[0], original.shape, value.shape)
                loaded = nn.Parameter(torch.empty(original.shape, dtype=self.dtype, device=device), requires_grad=False)
                loaded.copy_(value)
                for name in parameter_names:
                    owner, _, leaf = name.rpartition(".")
                    module.get_submodule(owner)._parameters[leaf] = loaded
        return module.to(device)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all parameters in `dtype`, tied ones once."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.skeleton().parameters())

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
        shapes = {name: parameter.shape for name, parameter in _build(config, dtype).named_parameters()}
        made = RandomWeights(shapes, dtype=dtype, device=device, seed=seed)
        return Model(name=spec, config=config, dtype=dtype, weights=made)
    source = str(smollm2_folder()) if spec == "smollm2" else spec
    config, tokenizer = _read_config(spec, source), _read_tokenizer(spec, source)
    weights = _checkpoint(spec, source, config, dtype)
    return Model(name=spec, config=config, dtype=dtype, weights=weights, tokenizer=tokenizer)


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


def _checkpoint(spec: str, source: str, config: Any, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """Read safetensors tensor by tensor where they are the module's parameters; else let transformers load them."""
    skeleton = _build(config, dtype)
    aliases = {names[0]: (names, parameter.shape) for names, parameter in _tied_names(skeleton).values()}
    files = find_safetensors(source)
    if not files and Path(source).is_dir() and not any(Path(source).glob("*.bin*")):
        raise ModelNotFoundError(
            f"model {spec!r}: has a configuration and no weights; expected model.safetensors (or its shards and index) "
            f"or pytorch_model.bin in that folder. For random weights: random:{Path(source) / 'config.json'}"
        )
    if files and not _is_converted_on_load(skeleton):
        located = SafetensorsWeights.locate(files, aliases, str(skeleton.base_model_prefix))
        if located is not None:
            _log.info("model %r: %d weights are read one by one from %d file(s)", spec, len(located), len(files))
            return SafetensorsWeights(located, dtype=dtype)
    _log.info("model %r: transformers loads the whole checkpoint into host memory at the first access", spec)
    return CheckpointWeights(lambda: _load_whole(spec, source, dtype), aliases, dtype=dtype)


def _is_converted_on_load(module: nn.Module) -> bool:
    """Tell whether transformers computes some parameters from stored tensors, possibly of the same name and shape."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter
    except ImportError:  # transformers 4 stores parameters as they are
        return False
    return any(isinstance(step, WeightConverter) for step in get_model_conversion_mapping(module, add_legacy=False))


def _load_whole(spec: str, source: str, dtype: torch.dtype) -> dict[str, Tensor]:
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
    return {name: value.detach() for name, value in module.named_parameters(remove_duplicate=False)}


def _build(config: Any, dtype: torch.dtype) -> nn.Module:
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
    module.tie_weights()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()  # type: ignore[no-any-return]


def _tied_names(module: nn.Module) -> dict[int, tuple[list[str], nn.Parameter]]:
    """Return every parameter with all its names, first name first."""
    found: dict[int, tuple[list[str], nn.Parameter]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), ([], parameter))[0].append(name)
    return found


def _check_shape(name: str, expected: torch.Size, came: torch.Size) -> None:
    if expected != came:
        raise ModelCorruptError(f"weight {name!r}: expected shape {tuple(expected)}, the checkpoint has {tuple(came)}")
