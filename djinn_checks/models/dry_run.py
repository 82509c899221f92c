"""A prompt and one token before any weight is read: does the module run on them, and leave its weights alone?

Weights can be streamed only if a forward reads them: what it writes into one is lost when the next copy arrives, or
is done a second time. So the module runs with all its tensors on `meta`, where a model of any size computes
nothing and takes no memory, under a dispatch mode that sees the arguments of each operation: in-place operations and
`out=` on a weight or on a view of one, whatever the view is called (`.data`, `.detach()`). Afterwards it is looked at
which parameters were exchanged for others.

A weight that is read while its own module does not run is noted with the module that runs, so that it can be there.

Where a forward asks for a value, which `meta` has none of, it gets a made one: an expert that is chosen, a mask that
is set. Where that is not enough it runs once more, on the device, with every weight one zero seen in the shape of
the weight: values are real then, and weights still take no memory.

Decoder blocks that are made like one before them are left out, since eighty of a kind do what one does.
`marked_versions` sees the rest when the whole model has run with its weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_checks.decode_cache import carried_over
from djinn_checks.errors import ModelUnsupportedError
from djinn_checks.layers import decoder_blocks

_log = logging.getLogger(__name__)

_TOKENS = 4
_META = torch.device("meta")
_MOST_COMPUTED = 4_000_000_000
"""Parameters of a module that is run with values: what a CPU multiplies through in a minute."""


@dataclass(frozen=True)
class DryRun:
    """What a prompt and a decode step without weights showed."""

    written: tuple[str, ...]
    """Weights that it wrote, by name, in the module's order: parameters and persistent buffers."""
    failure: str = ""
    """Why the module does not run on token ids alone, in its own words; empty if it runs, or if that is not known."""
    visits: tuple[str, ...] = ()
    """Names of modules in the order in which the prompt reached them, again if it came back; empty if it failed."""
    unused: frozenset[str] = frozenset()
    """Parts of the model that no weight was read of, such as what computes on images; empty if it failed."""
    readers: Mapping[str, str] = field(default_factory=dict)
    """From a module whose weights were read while neither it nor its decoder block ran, to the one that ran then: a
    method beside `forward` reads them, or another module reaches for them. Empty if it failed."""


def part_of(name: str) -> str:
    """Return the part of a model that a weight belongs to: "model.vision_tower", "model.language_model", "lm_head"."""
    return ".".join(name.split(".")[:2])


def run_dry(module: nn.Module, device: torch.device) -> DryRun:
    """Run a module without its weights: a prompt, and one token after it. The module itself is left as it is.

    Args:
        module: a causal language model with its parameters on `meta`.
        device: where it runs if it asks for values that cannot be made up.
    """
    trial = copy.deepcopy(module).to(_META, torch.bfloat16)
    _leave_out_repeated_blocks(trial)
    dry = _try(trial, _META)
    if dry.written or not dry.failure:
        return dry
    _log.info("%s does not run without values (%s)", type(module).__name__, dry.failure)
    if sum(parameter.numel() for parameter in module.parameters()) > _MOST_COMPUTED:
        return DryRun(())
    return _try(_with_one_zero_each(copy.deepcopy(module), device), device)


def _try(trial: nn.Module, device: torch.device) -> DryRun:
    before, visits, running = _storages(trial), list[str](), list[str]()

    def enter(name: str) -> None:
        visits.append(name)
        running.append(name)

    def leave(name: str) -> None:
        if name in running:  # a hook that raises before ours leaves nothing to take away
            del running[len(running) - 1 - running[::-1].index(name) :]

    for name, inner in trial.named_modules():
        inner.register_forward_pre_hook(lambda *_, name=name: enter(name))
        inner.register_forward_hook(lambda *_, name=name: leave(name), always_call=True)
    watch = _WriteWatch(set(before.values()), _owners(trial), running)
    ids = torch.ones(1, _TOKENS, dtype=torch.int64, device=device)
    failure = step = ""
    try:
        with torch.no_grad(), watch, device:
            carried, prompt = carried_over(trial(ids, use_cache=True)), tuple(visits)
            step = f"decoding one token with {', '.join(carried) or 'no cache'}: "
            trial(ids[:, :1], **carried, use_cache=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever the forward of a foreign class may raise
        failure = step + ((str(error).splitlines() or [""])[0] or type(error).__name__)
    after = _storages(trial)
    changed = (name for name, storage in before.items() if storage in watch.written or after.get(name) != storage)
    if failure:
        return DryRun(tuple(changed), failure)
    used = {part_of(name) for name, storage in before.items() if storage in watch.read}
    return DryRun(tuple(changed), "", prompt, frozenset(map(part_of, before)) - used, watch.readers)


def marked_versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Return for each weight which tensor it is and how often that was written; what differs later was written."""
    return {name: (id(tensor), tensor._version) for name, tensor in module.state_dict(keep_vars=True).items()}


def refuse_written(versions: Mapping[str, tuple[int, int]], module: nn.Module) -> None:
    """Refuse a module whose forwards have written its weights since `versions` were marked.

    Raises:
        ModelUnsupportedError: they have.
    """
    after = marked_versions(module)
    written = [name for name, version in versions.items() if after.get(name) != version]
    if written:
        raise ModelUnsupportedError(describe_written(type(module).__name__, written))


def describe_written(kind: str, written: Sequence[str]) -> str:
    """Say what is wrong with a class of modules that writes its own weights."""
    return (
        f"a forward of {kind} writes its own weights ({written[0]} is one), and what it writes into a streamed weight "
        "is lost or done twice; choose a model whose forward reads its weights only"
    )


def _leave_out_repeated_blocks(trial: nn.Module) -> None:
    """Keep the decoder blocks up to the last one that differs from all before it."""
    blocks = decoder_blocks(trial)
    kinds = [
        tuple(
            (name, type(inner), *map(str, (p.shape for p in inner.parameters(recurse=False))))
            for name, inner in block.named_modules()
        )
        for _, block in blocks
    ]
    kept = max((kinds.index(kind) for kind in kinds), default=-1) + 1
    if 0 < kept < len(blocks):
        owner, _, leaf = blocks[0][0].rpartition(".")[0].rpartition(".")
        holder = trial.get_submodule(owner)
        setattr(holder, leaf, getattr(holder, leaf)[:kept])


def _with_one_zero_each(trial: nn.Module, device: torch.device) -> nn.Module:
    """Give each parameter the values of a single zero, and buffers a place on the device."""
    for holder in trial.modules():
        for name, parameter in holder._parameters.items():
            if parameter is not None:
                zero = torch.zeros((), dtype=parameter.dtype, device=device).expand(parameter.shape)
                holder._parameters[name] = nn.Parameter(zero, requires_grad=False)
    return trial.to(device)


def _storages(module: nn.Module) -> dict[str, int]:
    return {name: _storage(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}


def _owners(trial: nn.Module) -> dict[int, frozenset[str]]:
    """Return for each parameter's storage the modules that it is streamed with: its own, or the decoder block."""
    blocks = [name for name, _ in decoder_blocks(trial)]
    owners: dict[int, frozenset[str]] = {}
    for name, parameter in trial.named_parameters(remove_duplicate=False):
        block = next((block for block in blocks if name.startswith(f"{block}.")), None)
        owner = name.rpartition(".")[0] if block is None else block
        owners[_storage(parameter)] = owners.get(_storage(parameter), frozenset()) | {owner}
    return owners


def _storage(tensor: Tensor) -> int:
    """Return what identifies a tensor's memory, on `meta` too."""
    return int(tensor.untyped_storage()._cdata)


class _WriteWatch(TorchDispatchMode):
    """Notes which storages operations write to, and answers in place of values that are not there."""

    def __init__(self, watched: set[int], owners: Mapping[int, frozenset[str]], running: Sequence[str]) -> None:
        """Watch these storages; `running` are the modules that run, the innermost last."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched, self._owners, self._running = watched, owners, running
        self.written: set[int] = set()
        self.read: set[int] = set()
        self.readers: dict[str, str] = {}

    def _note_read(self, storage: int) -> None:
        self.read.add(storage)
        owners = self._owners.get(storage, frozenset())
        if owners and self._running and owners.isdisjoint(self._running):
            self.readers[min(owners)] = self._running[-1]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for value in (*args, *kwargs.values()):
            for tensor in value if isinstance(value, list | tuple) else (value,):
                if isinstance(tensor, Tensor):
                    self._note_read(_storage(tensor))
        self.written |= {_storage(tensor) for tensor in _written_arguments(func, args, kwargs)} & self._watched
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            made = _make_value(func, args[0], kwargs)
            if made is not None:
                return made
        return func(*args, **kwargs)


def _written_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        for tensor in value if isinstance(value, list | tuple) else (value,):
            if isinstance(tensor, Tensor):
                yield tensor


def _make_value(func: Any, tensor: Tensor, kwargs: Mapping[str, Any]) -> Any:
    """Return what stands for a value that is asked of a tensor on `meta`, or None if none is asked for."""
    aten = torch.ops.aten
    if func is aten._local_scalar_dense.default:
        return torch.ones((), dtype=tensor.dtype).item()
    if func is aten.nonzero.default:
        return torch.zeros(1, tensor.dim(), dtype=torch.int64, device=_META)
    if func is aten.equal.default:
        return True
    if func is aten._to_copy.default and kwargs.get("device", _META) not in (None, _META):
        return torch.ones(tensor.shape, dtype=kwargs.get("dtype") or tensor.dtype, device=kwargs["device"])
    return None
