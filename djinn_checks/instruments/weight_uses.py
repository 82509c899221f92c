"""A log of the tensors that functions read: where each lies, and a digest of its bytes before the function runs.

Every question is put to the tensor itself and not to what its class says of it: a subclass of `nn.Parameter` may
answer `data_ptr` as it likes, so methods are torch's own, called past any override.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from djinn_checks.addresses import address_of
from djinn_checks.digest import digest, digest_rows
from djinn_checks.instruments.held_memory import HeldMemory
from djinn_checks.instruments.memory_place import PlaceOf, find_place
from djinn_checks.instruments.weight_evidence import How, Part, Use, WeightEvidence, gather_evidence
from djinn_checks.layers import is_of_experts
from djinn_checks.plain_tensors import has_own_functions, has_own_operators, without_class


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVES = _words(
    "copy_ clone detach detach_ cpu cuda pin_memory contiguous set_ resize_ __setitem__ __set__ __deepcopy__ "
    "share_memory_ requires_grad_ record_stream __reduce_ex__ __setstate__ cat concat concatenate stack hstack vstack"
)
DESCRIBES = _words(
    "size dim ndimension numel nelement element_size stride storage_offset data_ptr get_device storage "
    "untyped_storage is_contiguous is_pinned is_shared is_floating_point is_complex is_signed is_inference "
    "is_conj is_neg is_same_size is_set_to __len__ __hash__ __repr__ __format__ __dir__ __delete__ "
    "view_as reshape_as expand_as type_as empty_like zeros_like ones_like full_like rand_like randn_like "
    "new new_empty new_zeros new_ones new_full new_tensor register_hook retain_grad"
)
CONVERTS = _words("to type float half bfloat16 double")
VIEWS = _words(
    "view reshape flatten ravel t T mT H mH transpose permute unsqueeze squeeze expand narrow select chunk split "
    "unbind __getitem__ __iter__"
)
CONSUMES = _words(
    "embedding embedding_bag index_select index gather take_along_dim "
    "linear matmul mm addmm bmm baddbmm addmv mv einsum bilinear conv1d conv2d convolution layer_norm "
    "native_layer_norm rms_norm _fused_rms_norm group_norm mul mul_ multiply __mul__ __rmul__ __imul__ add add_ "
    "__add__ __radd__ __iadd__ __matmul__ __rmatmul__ _scaled_mm _grouped_mm _linear_pointwise"
)
"""Functions by which a tensor that no module owns can be used as a weight. All else moves or packs it."""

_KNOWN = ("torch", "djinn_checks")
"""Packages whose modes leave tensors as they are."""

_MOST_RANGES = 24
"""Of a fused weight's rows, each read once: three of three sizes have 15."""

_PLAIN = frozenset((int, float, bool, str, list, tuple, type(None), torch.dtype, torch.device, torch.Size))

Digests = MutableMapping[tuple[Any, ...], Tensor]
"""Digests by where they were taken, of weights that do not change."""

Frame = dict[object, tuple[int, int | None, Use]]
"""What a module call used: (address, version, use) by what it is called."""


class UseLog:
    """Uses in the order that they came, and what holds them."""

    def __init__(
        self, reference: WeightEvidence | None, *, place_of: PlaceOf = find_place, digests: Digests | None = None
    ) -> None:
        """Start empty.

        Args:
            reference: the same forward of the resident model.
            place_of: tells where memory lies.
            digests: keeps digests, of a model whose weights stay where and what they are.
        """
        self._reference = reference
        self._place_of = place_of
        self._digests = digests
        self._shapes = set(reference.shapes.values()) if reference else set()
        self._dimensions = {len(shape) for shape in self._shapes}
        self._held = HeldMemory()
        self._numbers, self._keys, self._calls = itertools.count(), itertools.count(), itertools.count()
        self._uses: list[Use] = []

    def note_weight(self, tensor: Tensor, name: str, frame: Frame, how: How) -> None:
        """Note that something is done with a module's own weight.

        Each arithmetic counts, as its place may be one that weight after weight passes through. Of the rest the last
        one does, if the weight was moved or written meanwhile.
        """
        plain = bare(tensor)
        if plain is not None:
            key = next(self._keys) if how is How.ARITHMETIC else (name, how)
            self._note(plain, name, key, frame, how, is_proxy=has_own_functions(tensor) or has_other_modes())

    def note_if_known(self, tensor: Tensor, frame: Frame) -> None:
        """Note a tensor that no running module owns, if it has the shape of a weight that is known, or of several."""
        if tensor.ndim not in self._dimensions:
            return
        plain = bare(tensor)
        if plain is None or not plain.is_floating_point():
            return
        if plain.ndim == 2 and plain.stride(0) < plain.stride(1):
            plain = plain.t()  # as a matrix product sees a weight
        if tuple(plain.shape) in self._shapes or self._ranges(plain):
            self._note(plain, "", next(self._keys), frame, How.ARITHMETIC)

    def close(self, frame: Frame) -> None:
        """Take over what a module call used."""
        call = next(self._calls)
        self._uses.extend(replace(use, call=call) for _, _, use in frame.values())
        frame.clear()

    def evidence(self) -> WeightEvidence | None:
        """Return what was seen; None if no weight was seen in use. Synchronizes with the device."""
        return gather_evidence(self._uses, self._reference, self._held) if self._uses else None

    def _note(self, plain: Tensor, name: str, key: object, frame: Frame, how: How, *, is_proxy: bool = False) -> None:
        address, version = address_of(plain), None if plain.is_inference() else plain._version
        if key in frame and frame[key][:2] == (address, version):
            return
        place, number = self._place_of(plain.device, address), next(self._numbers)
        use = Use(
            number=number,
            name=name,
            place=place,
            nbytes=min(_extent_bytes(plain), plain.numel() * plain.element_size()),
            shape=tuple(plain.shape),
            digest=self._digest(plain, address, version),
            parts=() if tuple(plain.shape) in self._shapes else tuple(self._parts(plain)),
            dtype=plain.dtype,
            how=how,
            experts=self._digest_experts(plain, address, version) if is_of_experts(name) else None,
            address=address,
            is_proxy=is_proxy,
        )
        frame[key] = address, version, use
        if place == "device":
            self._held.note(plain, address, _extent_bytes(plain), number)

    def _digest(self, plain: Tensor, address: int, version: int | None) -> Tensor:
        return self._keep((plain.device, address, version, plain.shape, plain.dtype), lambda: digest(plain))

    def _digest_experts(self, plain: Tensor, address: int, version: int | None) -> Tensor | None:
        """Return the digest of each part of a tensor; None where parts do not begin at whole words."""
        if plain.ndim < 2 or not plain.numel():
            return None
        rows = plain.detach().contiguous().flatten(1).view(torch.uint8)
        if rows.shape[1] % 4 or address_of(rows) % 4:
            return None
        key = (plain.device, address, version, plain.shape, plain.dtype, "experts")
        return self._keep(key, lambda: digest_rows(rows))

    def _keep(self, key: tuple[Any, ...], take: Callable[[], Tensor]) -> Tensor:
        if self._digests is None:
            return take()
        if key not in self._digests:
            self._digests[key] = take()
        return self._digests[key]

    def _parts(self, plain: Tensor) -> Iterator[Part]:
        for start, rows in self._ranges(plain):
            rows_of = plain[start : start + rows]
            yield Part(start, rows, rows_of.numel() * rows_of.element_size(), digest(rows_of))

    def _ranges(self, plain: Tensor) -> list[tuple[int, int]]:
        """Return ranges of rows (start, count) that two or three weights of the reference may lie in, end to end."""
        if plain.ndim not in (1, 2) or not plain.is_contiguous():
            return []
        rows, rest = plain.shape[0], tuple(plain.shape[1:])
        sizes = {shape[0] for shape in self._shapes if shape[1:] == rest and len(shape) == plain.ndim}
        found = set()
        for count in (2, 3):
            for picked in itertools.product(sizes, repeat=count):
                if sum(picked) == rows:
                    found |= set(zip(itertools.accumulate((0, *picked[:-1])), picked, strict=True))
        return sorted(found) if len(found) <= _MOST_RANGES else []


def bare(tensor: Tensor) -> Tensor | None:
    """Return the tensor without what its class adds to it; None if it has no memory of its own to look at, as under
    `vmap`, if its bytes are not its numbers (quantized ones, conjugates), or if its class answers for PyTorch's own
    operators, so that what they give may lie elsewhere."""
    if has_own_operators(tensor):
        return None
    plain = without_class(tensor)
    if type(plain) is not Tensor or plain.device.type == "meta" or plain.layout != torch.strided:
        return None
    if torch._C._functorch.is_functorch_wrapped_tensor(plain) or plain.is_nested:
        return None
    return None if plain.is_quantized or plain.is_conj() or plain.is_neg() else plain


def has_other_modes() -> bool:
    """Tell whether a mode of the system's own comes after this one: it may put other tensors in the place of those that
    are given here."""
    modes = [*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()]
    return any(type(mode).__module__.partition(".")[0] not in _KNOWN for mode in modes)


def tensors_in(args: Iterable[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among a function's arguments, those in lists and tuples included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind is Tensor or (kind not in _PLAIN and isinstance(value, Tensor)):
            found.append(value)
        elif kind is list or kind is tuple:
            found += tensors_in(value, {})
    return found


def is_parameter(tensor: Tensor) -> bool:
    """Tell a parameter; most tensors are none, and are told at once."""
    return type(tensor) is not Tensor and isinstance(tensor, nn.Parameter)


def function_name(func: Callable[..., Any]) -> str:
    """Return a function's name, of an operator without its overload's. `weight.T` is a property: what counts is its
    name; all others describe."""
    name: str = getattr(func, "__name__", "")
    if name != "__get__":
        return name.partition(".")[0]
    property_name = getattr(getattr(func, "__self__", None), "__name__", "")
    return property_name if property_name in VIEWS else "size"


def owned_name(module: nn.Module, parameter: Tensor, *, direct_only: bool) -> str | None:
    """Return a module's name of a parameter of its own, looked up at this moment: hooks may have replaced it."""
    for name, owned in module.named_parameters(recurse=not direct_only):
        if owned is parameter:
            return name
    return None


def _extent_bytes(tensor: Tensor) -> int:
    """Return the bytes from a tensor's first element to its last; its own bytes if it has no gaps."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(last + 1) * tensor.element_size()
