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
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from djinn_checks.errors import ModelCorruptError, ModelError, ModelNotFoundError, ModelUnsupportedError
from djinn_checks.loading import uncollected
from djinn_checks.models.build import build_module, vet_module
from djinn_checks.models.checkpoint import open_checkpoint, tied_names
from djinn_checks.models.dry_run import part_of
from djinn_checks.models.experts import unpicked_bytes, unrouted_bytes
from djinn_checks.models.limits import count_positions, count_tokens
from djinn_checks.models.random_weights import RandomWeights
from djinn_checks.models.smollm2 import smollm2_folder
from djinn_checks.models.weight_names import NamedWeights

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
    visits: tuple[str, ...] = ()
    """Names of modules in the order in which a forward reaches them; decoder blocks made alike are left out. Empty if
    it is not known."""
    unused: frozenset[str] = frozenset()
    """Parts of which token ids alone use no weight, such as what computes on images."""
    readers: Mapping[str, str] = field(default_factory=dict)
    """From modules whose weights are read while they do not run, to those that run then (`DryRun.readers`)."""
    outline: nn.Module | None = field(default=None, repr=False, compare=False)
    """A skeleton to ask, and never to run; None: made when something is asked."""
    tokenizer: Any | None = None
    """`transformers.PreTrainedTokenizerBase`; None for random models."""

    def lent(self) -> Model:
        """Return the same model with a configuration of its own, which a system may change: the reference is made from
        this one."""
        return replace(self, config=copy.deepcopy(self.config))

    def skeleton(self) -> nn.Module:
        """Return the module with its parameters on `meta` and its buffers real, on the CPU, ready for inference."""
        module = build_module(self.config, self.dtype, self.untied)
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
        return sum(parameter.numel() * parameter.element_size() for parameter in self._outline.parameters())

    @cached_property
    def used_bytes(self) -> int:
        """Bytes of the parameters of those parts that token ids use, tied ones once."""
        parameters = self._outline.named_parameters()
        return sum(
            value.numel() * value.element_size() for name, value in parameters if part_of(name) not in self.unused
        )

    @cached_property
    def unrouted_bytes(self) -> int:
        """Bytes of experts that one token is not routed to, so that a forward of it uses none of them."""
        return unrouted_bytes(self._outline.named_parameters(), self.config)

    @cached_property
    def unpicked_bytes(self) -> int:
        """Bytes of the table of embeddings that one token picks no row of; 0 where the head uses the table, too."""
        return unpicked_bytes(self._outline)

    @cached_property
    def vocabulary(self) -> int:
        """Token ids that it has a row for: they go from 0 to one less."""
        return count_tokens(self._outline)

    @cached_property
    def positions(self) -> int | None:
        """Tokens that a sequence may have; None if nothing in the module ends there."""
        return count_positions(self._outline)

    @cached_property
    def _outline(self) -> nn.Module:
        return self.outline or build_module(self.config, self.dtype, self.untied)

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return the first `max_tokens` token ids of a text.

        Random models have no tokenizer: their tokens are the text's UTF-8 bytes, spread over the vocabulary.

        Raises:
            ModelCorruptError: the tokenizer makes a token that the model has no row for.
        """
        if self.tokenizer is None:
            spread = ((byte * 2654435761 + position) for position, byte in enumerate(text.encode()))
            return [place % self.vocabulary for place in itertools.islice(spread, max_tokens)]
        ids = list(self.tokenizer(text)["input_ids"][:max_tokens])
        if ids and max(ids) >= self.vocabulary:
            raise ModelCorruptError(
                f"model {self.name!r}: its tokenizer makes token {max(ids)} of {text[:20]!r}, its weights have rows "
                f"for tokens 0 to {self.vocabulary - 1}; tokenizer and weights are of different models"
            )
        return ids

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
        ModelUnsupportedError: no check can decide about a model of its kind.
    """
    if spec.startswith("random:"):
        config = _shape_config(spec)
        module, dry = vet_module(spec, config, dtype, device)
        made = RandomWeights(dict(module.named_parameters()), device=device, seed=seed)
        return Model(
            name=spec,
            config=config,
            dtype=dtype,
            weights=NamedWeights(made, _tied_to(module, frozenset())),
            outline=module,
            visits=dry.visits,
            unused=dry.unused,
            readers=dry.readers,
        )
    source = str(smollm2_folder()) if spec == "smollm2" else spec
    config, tokenizer = _read_config(spec, source), _read_tokenizer(spec, source)
    module, dry = vet_module(spec, config, dtype, device)
    stored = open_checkpoint(spec, source, build=partial(build_module, config, dtype), dtype=dtype)
    return Model(
        name=spec,
        config=config,
        dtype=dtype,
        weights=NamedWeights(stored.weights, _tied_to(module, stored.untied)),
        buffers=stored.buffers,
        untied=stored.untied,
        outline=None if stored.untied else module,
        visits=dry.visits,
        unused=dry.unused,
        readers=dry.readers,
        tokenizer=tokenizer,
    )


def _tied_to(module: nn.Module, untied: frozenset[str]) -> dict[str, str]:
    """Return the names of tied parameters and, of each, the first name of what it is tied to."""
    groups = [names for names, _ in tied_names(module).values()]
    return {name: names[0] for names in groups for name in names[1:] if name not in untied}


def _shape_config(spec: str) -> Any:
    with uncollected():
        from transformers import CONFIG_MAPPING

    shape = spec.removeprefix("random:")
    if shape not in SHAPES:
        if not Path(shape).is_file():
            raise ModelNotFoundError(f"{spec}: no such shape; known: {', '.join(SHAPES)}, or a path to a config.json")
        return _read_config(spec, shape)
    values = json.loads((resources.files("djinn_checks.models") / "shapes" / f"{shape}.json").read_text())
    with uncollected():  # a configuration's class is imported when it is first asked for
        return CONFIG_MAPPING[values.pop("model_type")](**values)


def _read_config(spec: str, source: str) -> Any:
    with uncollected():
        from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # a value that a configuration's own class trips over may raise anything
        raise _config_error(spec, source, error) from error
    if getattr(config, "quantization_config", None) is not None:
        raise ModelUnsupportedError(
            f"model {spec!r}: expected plain weights, its configuration says that they are quantized; "
            "quantized checkpoints are not supported, choose the unquantized one"
        )
    return config


def _config_error(spec: str, source: str, error: Exception) -> ModelError:
    if "trust_remote_code" in str(error):
        return ModelUnsupportedError(
            f"model {spec!r} needs code from its own repository, which is never run here; "
            "choose a model whose architecture transformers itself implements"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
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


def _check_shape(name: str, expected: torch.Size, came: torch.Size) -> None:
    if expected != came:
        raise ModelCorruptError(f"weight {name!r}: expected shape {tuple(expected)}, the checkpoint has {tuple(came)}")
