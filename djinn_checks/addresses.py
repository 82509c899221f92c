"""Where a tensor's bytes lie, found without a change to them: of a lazy copy, `data_ptr()` makes a real one."""

from __future__ import annotations

import torch
from torch import Tensor


def is_lazy_copy(tensor: Tensor) -> bool:
    """Tell a tensor that shares another one's memory until either is written to (`torch._lazy_clone`)."""
    return bool(torch._C._is_cow_tensor(tensor))  # type: ignore[attr-defined]


def address_of(tensor: Tensor) -> int:
    """Return the address of a tensor's first element."""
    if is_lazy_copy(tensor):
        start = int(torch._C._data_address(tensor))  # type: ignore[attr-defined]  # of its storage
        return start + int(tensor.storage_offset()) * tensor.element_size()
    return int(Tensor.data_ptr(tensor))
