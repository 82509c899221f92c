"""Random weights that anyone can make anywhere: a counter-based generator, one tensor at a time.

Element i of a tensor is a function of the seed, the tensor's name and i alone, computed in integer
arithmetic that is the same on every device. So any tensor can be made without the others, on a GPU at
GPU speed, and comes out bit for bit the same on a CPU.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

STANDARD_DEVIATION = 0.02
"""Standard deviation of matrices: the `initializer_range` of Llama and GPT-2."""

_CHUNK = {"cpu": 1 << 17, "cuda": 1 << 21}
"""Elements made at a time: what fits the cache of a CPU, and little scratch memory on a GPU."""

_MASK = 0xFFFFFFFF


class RandomWeights(Mapping[str, Tensor]):
    """Lazy mapping from parameter names to random tensors; each access makes the tensor anew."""

    def __init__(self, parameters: Mapping[str, Tensor], *, device: torch.device, seed: int = 0) -> None:
        """Make tensors of the shape and data type of `parameters`, by name; those may be on `meta`."""
        self._like = {name: (parameter.shape, parameter.dtype) for name, parameter in parameters.items()}
        self._device, self._seed = device, seed

    def __getitem__(self, name: str) -> Tensor:
        shape, dtype = self._like[name]
        return random_tensor(name, shape, dtype=dtype, device=self._device, seed=self._seed)

    def __contains__(self, name: object) -> bool:
        return name in self._like  # a mapping would make the tensor to see whether it is there

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


def random_tensor(
    name: str, shape: torch.Size | tuple[int, ...], *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> Tensor:
    """Return the random tensor of that name, bit-identical on every device.

    Matrices and biases are uniform with mean 0 and standard deviation 0.02; other vectors (the scales
    of norms) are 1 plus that. Values are computed in float32 and rounded to nearest in `dtype`.
    """
    out = torch.empty(shape, dtype=dtype, device=device)
    flat = out.view(-1)
    offset = 1.0 if len(shape) == 1 and not name.endswith("bias") else 0.0
    half_width = STANDARD_DEVIATION * math.sqrt(3)  # a uniform variable on (-a, a) has deviation a / sqrt(3)
    chunk = _CHUNK.get(device.type, _CHUNK["cpu"])
    for start in range(0, flat.numel(), chunk):
        end = min(start + chunk, flat.numel())
        unit = uniform(name, start, end, device=device, seed=seed)
        flat[start:end] = unit.mul_(half_width).add_(offset).to(dtype)
    return out


def uniform(name: str, start: int, end: int, *, device: torch.device, seed: int = 0) -> Tensor:
    """Return elements `start` to `end` of the stream `name`: float32, uniform on (-1, 1), exact on every device.

    The stream has 2^64 places, numbered in int64: a tensor of more than 2^32 elements does not repeat.
    """
    key = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    low, high = (int.from_bytes(part, "little") for part in (key[:4], key[4:]))
    index = torch.arange(start, end, dtype=torch.int64, device=device)
    words = _mix((index & _MASK) ^ low) ^ _mix((index >> 32) + high)
    # 23 bits and a half are exact in float32; the half centres them, so that the mean is 0.
    return (_mix(words) >> 9).to(torch.float32).add_(0.5).mul_(2.0**-22).sub_(1.0)


def _mix(word: Tensor) -> Tensor:
    """Scramble 32-bit words held in int64: the finalizer of MurmurHash3 (Austin Appleby, public domain)."""
    word = word & _MASK
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _MASK
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _MASK
    return word ^ (word >> 16)
