"""Weights of a checkpoint, read one tensor at a time and never all at once.

safetensors files are mapped into memory, so what is copied into the engine's pinned arena comes straight
from the page cache; and a weight tells where its bytes lie in a file, so that it can be streamed from there.
A checkpoint whose tensors are not the module's own (experts that transformers fuses on load, pickled files)
is loaded whole by transformers instead, when the first weight is asked for.

What a caller writes into a returned tensor is the caller's alone: the next access reads the checkpoint.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.errors import ModelCorruptError, ModelUnsupportedError

_log = logging.getLogger(__name__)

Aliases = Mapping[str, tuple[list[str], Tensor]]
"""First name of each parameter or buffer to all its names and the tensor itself, which has its shape and data type."""

_QUANTIZED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale_inv", ".SCB", ".absmax")
"""How names end that GPTQ, AWQ, compressed-tensors, fine-grained FP8 and bitsandbytes store."""

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_FLOATS = tuple(_DTYPES)


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what its header says."""

    path: Path
    name: str
    shape: torch.Size
    kind: str
    """Data type in the words of safetensors: F32, BF16, I8 ..."""
    offset: int
    """Bytes from the start of the file. They are a multiple of what the data type needs at best."""
    nbytes: int

    def read(self) -> Tensor:
        """Return the tensor as it is stored."""
        from safetensors import safe_open

        # A mapping of its own for each access (private, copy on write) keeps callers' writes from each other.
        with safe_open(self.path, framework="pt", device="cpu") as file:
            tensor: Tensor = file.get_tensor(self.name)
        return tensor


def find_safetensors(source: str) -> list[Path]:
    """Return the safetensors files of a folder or a hub id that transformers would read, all shards.

    Other safetensors files beside them are left alone. A hub id is downloaded here, once.

    Returns:
        No files if the checkpoint has another format.

    Raises:
        ModelCorruptError: the index cannot be read, or names a file that is not there.
    """
    single = _cached(source, "model.safetensors")
    if single is not None:
        return [single]
    index = _cached(source, "model.safetensors.index.json")
    if index is None:
        return []
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelCorruptError(f"{index}: is no index of weights ({error!r}); fetch it again") from error
    files = {name: _cached(source, name) for name in names}
    absent = [name for name, path in files.items() if path is None]
    if absent:
        raise ModelCorruptError(
            f"model {source!r}: {index.name} names {len(names)} files, {absent[0]} is not there; fetch it again"
        )
    return [path for path in files.values() if path is not None]


class SafetensorsWeights(Mapping[str, Tensor]):
    """Lazy mapping over (sharded) safetensors files."""

    def __init__(self, located: Mapping[str, StoredTensor], aliases: Aliases) -> None:
        """Read `located`, by name; values are cast to the data type of the module's own tensor."""
        self._located = dict(located)
        self._dtypes = {name: aliases[name][1].dtype for name in located}

    @staticmethod
    def locate(
        files: list[Path], stored: Mapping[str, StoredTensor], aliases: Aliases, base_prefix: str
    ) -> dict[str, StoredTensor] | None:
        """Find each parameter in the files, by any of its names, with or without the base model's prefix.

        Returns:
            The stored tensor of each parameter, or None if one is not found under its own name while the
            files hold tensors of other names, which transformers may know how to convert.

        Raises:
            ModelCorruptError: a file cannot be read, a tensor is missing, or has another shape than the module's.
            ModelUnsupportedError: a tensor is quantized.
        """
        located = {}
        absent = []
        for first, (names, tensor) in aliases.items():
            found = stored_names(names, base_prefix, stored)
            if not found:
                absent.append(first)
                continue
            _check_header(first, tensor.shape, stored[found[0]])
            located[first] = stored[found[0]]
        if not absent:
            return located
        if len(located) == len(stored):
            raise ModelCorruptError(
                f"weight {absent[0]!r} ({len(absent)} in all): missing from {', '.join(path.name for path in files)}; "
                "the checkpoint is incomplete, fetch it again"
            )
        _log.info("weight %r is not stored under its own name; transformers will load the checkpoint", absent[0])
        return None

    def __getitem__(self, name: str) -> Tensor:
        return self._located[name].read().to(self._dtypes[name])

    def stored(self, name: str) -> StoredTensor:
        """Return what a weight is read from."""
        return self._located[name]

    def lies_at(self, name: str) -> StoredTensor | None:
        """Return where the very bytes of a weight lie, contiguous in a file; None if reading it changes them."""
        stored = self._located[name]
        return stored if _DTYPES.get(stored.kind) is self._dtypes[name] else None

    def __contains__(self, name: object) -> bool:
        return name in self._located  # a mapping would read the tensor to see whether it is there

    def __iter__(self) -> Iterator[str]:
        return iter(self._located)

    def __len__(self) -> int:
        return len(self._located)


class CheckpointWeights(Mapping[str, Tensor]):
    """A checkpoint that is loaded whole into host memory at the first access."""

    def __init__(self, load: Callable[[], Mapping[str, Tensor]], aliases: Aliases) -> None:
        """Serve what `load` returns, by name; values are cast to the data type of the module's own tensor."""
        self._load, self._aliases = load, dict(aliases)
        self._loaded: Mapping[str, Tensor] | None = None

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._aliases:
            raise KeyError(name)
        if self._loaded is None:
            self._loaded = self._load()
        if name not in self._loaded:
            raise ModelCorruptError(f"weight {name!r} is missing from the checkpoint that transformers loaded")
        copy = torch.empty(self._loaded[name].shape, dtype=self._aliases[name][1].dtype)
        return copy.copy_(self._loaded[name])

    def __contains__(self, name: object) -> bool:
        return name in self._aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._aliases)

    def __len__(self) -> int:
        return len(self._aliases)


def _cached(source: str, name: str) -> Path | None:
    """Return a file of a folder or a hub id, or None if it has no such file or the hub cannot be reached."""
    from transformers.utils import cached_file

    path = cached_file(
        source, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return None if path is None else Path(path)


def stored_names(names: Iterable[str], base_prefix: str, stored: Mapping[str, StoredTensor]) -> list[str]:
    """Return under which names a tensor is stored: any of its own, with or without the base model's prefix."""
    prefix = f"{base_prefix}."
    variants = (variant for name in names for variant in (name, name.removeprefix(prefix), prefix + name))
    return [name for name in dict.fromkeys(variants) if name in stored]


def read_headers(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return what is stored in some files, by name.

    Raises:
        ModelCorruptError: a file cannot be read.
    """
    return {tensor.name: tensor for path in files for tensor in _headers(path)}


def refuse_quantized(stored: Iterable[StoredTensor]) -> None:
    """Refuse weights that a configuration did not say to be quantized, by the names that quantizers give them.

    Raises:
        ModelUnsupportedError: there are some.
    """
    found = next((tensor for tensor in stored if tensor.name.endswith(_QUANTIZED)), None)
    if found is not None:
        raise ModelUnsupportedError(
            f"weight {found.name!r} in {found.path.name}: expected plain weights, its name is that of a quantized one; "
            "quantized checkpoints are not supported, choose the unquantized one"
        )


def _headers(path: Path) -> list[StoredTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            places = _read_places(path)
            return [
                StoredTensor(
                    path=path,
                    name=name,
                    shape=torch.Size(part.get_shape()),
                    kind=part.get_dtype(),
                    offset=places[name][0],
                    nbytes=places[name][1] - places[name][0],
                )
                for name, part in slices.items()
            ]
    except SafetensorError as error:
        raise ModelCorruptError(f"{path}: is no whole safetensors file ({error}); fetch it again") from error


def _read_places(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each tensor of a whole safetensors file starts and ends, in bytes from the start of the file.

    The library does not tell. The file begins with the length of its header, 8 bytes little-endian; the header is JSON
    and counts from its own end.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    ends = {name: entry["data_offsets"] for name, entry in header.items()}
    return {name: (8 + length + start, 8 + length + end) for name, (start, end) in ends.items()}


def _check_header(name: str, expected: torch.Size, stored: StoredTensor) -> None:
    if stored.kind not in _FLOATS:
        raise ModelUnsupportedError(
            f"weight {name!r} in {stored.path.name}: expected one of {', '.join(_FLOATS)}, got {stored.kind}; "
            "quantized checkpoints are not supported, choose the unquantized one"
        )
    if stored.shape != expected:
        raise ModelCorruptError(
            f"weight {name!r} in {stored.path.name}: expected shape {tuple(expected)} by the configuration, "
            f"got {tuple(stored.shape)}; configuration and weights are of different models"
        )
