"""A name becomes a model: its configuration at once, its weights one tensor at a time when they are asked for.

    smollm2            SmolLM2-135M-Instruct, bundled by a package of the index (see `smollm2.py`)
    random:<shape>     llama-2-7b, llama-2-13b, llama-2-70b, tiny, or a path to a config.json; random weights
    <folder>           a local Hugging Face folder
    <owner>/<name>     a model of the hub

A model is built with its parameters on `meta` and its buffers real, computed on the CPU as usual: a rotary
table computed on another device differs in its last bits, and so do the logits. Code from a model's
repository is never run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError
from djinn_checks.random_weights import RandomWeights
from djinn_checks.safetensors_weights import CheckpointWeights, SafetensorsWeights, find_safetensors
from djinn_checks.smollm2 import smollm2_folder

SHAPES = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "tiny")


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
        """Return the module with all weights on `device`, and its buffers copied there."""
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

    @property
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
        config = _shape_config(spec.removeprefix("random:"))
        shapes = {name: parameter.shape for name, parameter in _build(config, dtype).named_parameters()}
        made = RandomWeights(shapes, dtype=dtype, device=device, seed=seed)
        return Model(name=spec, config=config, dtype=dtype, weights=made)
    source = str(smollm2_folder()) if spec == "smollm2" else spec
    config, tokenizer = _read_config(spec, source), _read_tokenizer(source)
    weights = _checkpoint(source, config, dtype)
    return Model(name=spec, config=config, dtype=dtype, weights=weights, tokenizer=tokenizer)


def _shape_config(shape: str) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    if shape not in SHAPES:
        path = Path(shape)
        if not path.is_file():
            raise ModelNotFoundError(
                f"random:{shape}: no such shape; known: {', '.join(SHAPES)}, or a path to a config.json"
            )
        return AutoConfig.from_pretrained(path.parent if path.name == "config.json" else path, trust_remote_code=False)
    values = json.loads((resources.files("djinn_checks") / "shapes" / f"{shape}.json").read_text())
    return CONFIG_MAPPING[values.pop("model_type")](**values)


def _read_config(spec: str, source: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {spec!r} needs code from its own repository, which is never run here; "
                "choose a model whose architecture transformers itself implements"
            ) from error
        raise ModelCorruptError(f"model {spec!r}: its configuration cannot be read ({error})") from error
    except OSError as error:
        raise ModelNotFoundError(
            f"model {spec!r}: no such folder, and the hub has or gives no such model "
            f"({str(error).splitlines()[0]}); known without a network: smollm2, "
            + ", ".join(f"random:{shape}" for shape in SHAPES)
        ) from error


def _read_tokenizer(source: str) -> Any | None:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError):  # a folder with weights alone: prompts are then bytes, as for random models
        return None


def _checkpoint(source: str, config: Any, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """Read safetensors tensor by tensor where their names are the module's; else let transformers load them."""
    skeleton = _build(config, dtype)
    aliases = {names[0]: (names, parameter.shape) for names, parameter in _tied_names(skeleton).values()}
    files = find_safetensors(source)
    located = SafetensorsWeights.locate(files, aliases, str(skeleton.base_model_prefix)) if files else None
    if located is not None:
        return SafetensorsWeights(located, dtype=dtype)
    from transformers import AutoModelForCausalLM

    load = partial(AutoModelForCausalLM.from_pretrained, source, dtype=dtype, trust_remote_code=False)
    return CheckpointWeights(load, aliases)


def _build(config: Any, dtype: torch.dtype) -> nn.Module:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        module: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
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
