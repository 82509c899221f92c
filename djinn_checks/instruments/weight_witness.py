"""Sees the weights at the point of use, from outside the system that put them there.

A `TorchFunctionMode` is shown every torch function (linear, embedding, addmm, mul, an index into an
expert tensor ...) before it runs, and global module hooks say which modules are running. When a function
gets an `nn.Parameter` that belongs to the innermost running module, the witness notes its name, where its
bytes lie and a digest of them, computed where they lie.

Why this is valid. The digest is enqueued right before the function that uses the weight, on the same
stream and reading the same address, so it sees what the function sees: a copy that had not arrived, or one
that was overwritten too early, changes it. And the pigeonhole argument needs no word from the system: if M
bytes of weights were each present, bit for bit, when they were used, and all of them together were found
in only R < M distinct bytes of memory, then at least M - R bytes were written during the pass.

Where it is blind.
- It sees calls from Python to torch. A compiled graph, a replayed CUDA graph, a kernel of the system's own
  or a system without `nn.Module`: no use is seen, and the evidence is None, never a zero.
- It proves that bytes were written, not where they came from: a system that keeps a second copy of the
  model on the device passes here, and is for the peak device memory to find.
- Weights with equal bytes (tied embeddings, norms that are all ones) count once: one copy could serve
  all of them. So do not look for the sum of all parameters in `used_bytes`.
- A parameter that is used counts with all of its bytes, since all of them were there: of an expert tensor
  also the experts that no token was routed to. An expert with a parameter of its own that no token was
  routed to is not used and does not count, for the reference as for the system.
- Functions that only move or describe a weight are no use. A view counts if the running module itself owns
  the parameter, so that an engine may pack the weights of a whole block in a hook of that block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from djinn_checks.digest import digest


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MOVES = _words(
    "copy_ clone detach detach_ cpu cuda pin_memory contiguous set_ resize_ __setitem__ __set__ __deepcopy__ "
    "share_memory_ requires_grad_ record_stream __reduce_ex__ __setstate__"
)
_DESCRIBES = _words(
    "size dim ndimension numel nelement element_size stride storage_offset data_ptr get_device storage "
    "untyped_storage is_contiguous is_pinned is_shared is_floating_point is_complex is_signed is_inference "
    "is_conj is_neg is_same_size is_set_to __len__ __hash__ __repr__ __format__ __dir__ __delete__ "
    "view_as reshape_as expand_as type_as empty_like zeros_like ones_like full_like rand_like randn_like "
    "new new_empty new_zeros new_ones new_full new_tensor register_hook retain_grad"
)
_CONVERTS = _words("to type float half bfloat16 double")
_VIEWS = _words(
    "view reshape flatten ravel t T mT H mH transpose permute unsqueeze squeeze expand narrow select chunk split "
    "unbind __getitem__ __iter__"
)


@dataclass(frozen=True, kw_only=True)
class WeightEvidence:
    """What was seen of the weights in one pass."""

    weights: tuple[str, ...]
    """Qualified names of the parameters that were used, sorted."""
    used_bytes: int
    """Bytes of the weights that were used; weights with equal bytes count once."""
    exact_bytes: int
    """The part of `used_bytes` that equals a weight of the reference bit for bit."""
    distinct_bytes: int
    """Bytes of memory that the used weights were found in: the union of their (device, address) intervals.
    Only the weights' own bytes count, so padding that an engine puts between them adds nothing."""
    different: tuple[str, ...]
    """Names whose bytes at a point of use were not those of the reference, sorted."""
    unknown: tuple[str, ...]
    """Names that the reference does not have, with bytes that it does not have either, sorted."""
    unseen: tuple[str, ...]
    """Names that the reference used and whose bytes were never seen in use here, sorted."""
    contents: Mapping[str, tuple[int, int]]
    """Name to (digest, bytes); of a weight that was found both right and wrong, the wrong digest."""

    @property
    def moved_bytes_lower_bound(self) -> int:
        """Bytes that were certainly written during the pass (see the module's text)."""
        return max(0, self.exact_bytes - self.distinct_bytes)

    @property
    def complete(self) -> bool:
        """Whether every weight that the reference used was seen here, right or wrong."""
        return not self.unseen and not self.unknown

    def bytes_without(self, names: Collection[str]) -> int:
        """Return `used_bytes` as it would be without the weights of these names."""
        return sum(dict(content for name, content in self.contents.items() if name not in names).values())


@dataclass(frozen=True)
class _Use:
    name: str
    device: torch.device
    address: int
    version: int | None
    nbytes: int
    digest: Tensor


class WeightWitness(TorchFunctionMode):
    """Watches the weights of one pass.

    >>> with WeightWitness() as witness:
    ...     model(ids)
    >>> evidence = witness.evidence()

    Enter it around one forward, in the thread that runs it. It changes no result; it takes one read of
    every weight, and synchronizes with the device only in `evidence`.
    """

    def __init__(self, reference: WeightEvidence | None = None) -> None:
        """Watch, and hold the weights against those of `reference`, a pass of the resident model.

        Without a reference every weight counts as exact.
        """
        super().__init__()
        self._reference = reference
        self._running: list[tuple[nn.Module, dict[str, _Use]]] = []
        self._names: dict[int, str] = {}
        self._uses: list[_Use] = []

    def __enter__(self) -> Self:
        self._hooks = [
            module_hooks.register_module_forward_pre_hook(self._enter_module),
            module_hooks.register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        while self._running:
            self._uses.extend(self._running.pop()[1].values())

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        parameters = list(_parameters((args, kwargs))) if self._running else []
        name = _function_name(func)
        if not parameters or name in _MOVES or name in _DESCRIBES:
            return func(*args, **kwargs)
        if name not in _CONVERTS:
            for parameter in parameters:
                self._note(parameter, direct_only=name in _VIEWS)
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.dtype != parameters[0].dtype:
            self._note(parameters[0], direct_only=False)  # into another dtype is arithmetic; else it is a move
        return result

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        if not self._running:
            self._names = {id(inner): name for name, inner in module.named_modules()}
        self._running.append((module, {}))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._running:
            left, uses = self._running.pop()
            self._uses.extend(uses.values())
            if left is module:
                return

    def _note(self, parameter: nn.Parameter, *, direct_only: bool) -> None:
        """Note a use, once per module call; of a weight that was moved or written meanwhile, the later one."""
        if parameter.is_meta:
            return
        module, uses = self._running[-1]
        name = self._find_name(module, parameter, direct_only)
        if name is None:
            return
        address, version = parameter.data_ptr(), _version(parameter)
        if name in uses and (uses[name].address, uses[name].version) == (address, version):
            return
        uses[name] = _Use(name, parameter.device, address, version, _extent_bytes(parameter), digest(parameter))

    def _find_name(self, module: nn.Module, parameter: nn.Parameter, direct_only: bool) -> str | None:
        """Look the name up now: hooks may have put another parameter in place after the call began."""
        for name, owned in module.named_parameters(recurse=not direct_only):
            if owned is parameter:
                prefix = self._names.get(id(module), "")
                return f"{prefix}.{name}" if prefix else name
        return None

    def evidence(self) -> WeightEvidence | None:
        """Return what was seen since the witness was made; None if no weight was seen in use."""
        if not self._uses:
            return None
        known = _Known(self._reference)
        values = _to_host([use.digest for use in self._uses])
        sizes = {value: use.nbytes for use, value in zip(self._uses, values, strict=True)}
        named: dict[str, dict[str, int]] = {"exact": {}, "different": {}, "unknown": {}}
        for use, value in zip(self._uses, values, strict=True):
            verdict, name = known.verdict(use.name, value)
            named[verdict][name] = value
        exact = set(named["exact"].values())
        return WeightEvidence(
            weights=tuple(sorted(named["exact"] | named["different"] | named["unknown"])),
            used_bytes=sum(sizes.values()),
            exact_bytes=sum(sizes[value] for value in exact),
            distinct_bytes=_union_bytes(self._uses),
            different=tuple(sorted(named["different"])),
            unknown=tuple(sorted(named["unknown"])),
            unseen=known.unseen(exact, named["different"]),
            contents={name: (value, sizes[value]) for found in named.values() for name, value in found.items()},
        )


class _Known:
    """The reference's weights, by name and by content. Without a reference every weight is exact."""

    def __init__(self, reference: WeightEvidence | None) -> None:
        contents = reference.contents if reference else {}
        self._digests = {name: value for name, (value, _) in contents.items()}
        self._values = set(self._digests.values())
        self._anything = reference is None

    def verdict(self, name: str, value: int) -> tuple[str, str]:
        """Return exact, different or unknown, and the reference's name of the weight if it has one."""
        known_as = self._known_as(name)
        if known_as is not None:
            return ("exact" if self._digests[known_as] == value else "different"), known_as
        return ("exact" if self._anything or value in self._values else "unknown"), name

    def unseen(self, exact: set[int], different: Collection[str]) -> tuple[str, ...]:
        """Return the names whose bytes were not seen in use, neither right nor wrong."""
        missing = (name for name, value in self._digests.items() if value not in exact and name not in different)
        return tuple(sorted(missing))

    def _known_as(self, name: str) -> str | None:
        """Return the reference's name of a weight; a wrapper may have put a prefix before it."""
        while name not in self._digests:
            _, dot, name = name.partition(".")
            if not dot:
                return None
        return name


def _parameters(value: Any) -> Iterator[nn.Parameter]:
    if isinstance(value, nn.Parameter):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parameters(item)
    elif isinstance(value, dict):
        yield from _parameters(list(value.values()))


def _function_name(func: Callable[..., Any]) -> str:
    """Return a function's name. `weight.T` is a property: what counts is its name; all others describe."""
    name = getattr(func, "__name__", "")
    if name != "__get__":
        return name
    property_name = getattr(getattr(func, "__self__", None), "__name__", "")
    return property_name if property_name in _VIEWS else "size"


def _version(parameter: nn.Parameter) -> int | None:
    """Return PyTorch's count of writes to a tensor's memory; tensors of inference mode have none."""
    return None if parameter.is_inference() else parameter._version


def _extent_bytes(tensor: Tensor) -> int:
    """Return the bytes from a tensor's first element to its last; its own bytes if it has no gaps."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(last + 1) * tensor.element_size()


def _to_host(digests: list[Tensor]) -> list[int]:
    """Read 0-d digests with one transfer a device."""
    values: dict[int, int] = {}
    for device in {value.device for value in digests}:
        places = [place for place, value in enumerate(digests) if value.device == device]
        read = torch.stack([digests[place] for place in places]).tolist()
        values.update(zip(places, read, strict=True))
    return [values[place] for place in range(len(digests))]


def _union_bytes(uses: Iterable[_Use]) -> int:
    """Return the size of the union of the uses' intervals of memory."""
    total = 0
    for device in {use.device for use in uses}:
        reached = 0
        for start, end in sorted((use.address, use.address + use.nbytes) for use in uses if use.device == device):
            total += max(0, end - max(start, reached))
            reached = max(reached, end)
    return total
