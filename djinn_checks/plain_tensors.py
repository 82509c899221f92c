"""A tensor without its class: a subclass may answer any question about itself as it likes."""

from __future__ import annotations

import torch
from torch import Tensor


def has_own_operators(tensor: Tensor) -> bool:
    """Tell a tensor whose class answers in place of PyTorch's operators (`__torch_dispatch__`)."""
    own = getattr(type(tensor), "__torch_dispatch__", None)
    return own not in (Tensor.__torch_dispatch__, torch._C._disabled_torch_dispatch_impl)


def has_own_functions(tensor: Tensor) -> bool:
    """Tell a tensor whose class answers in place of PyTorch's functions (`__torch_function__`)."""
    own = next(vars(kind)["__torch_function__"] for kind in type(tensor).__mro__ if "__torch_function__" in vars(kind))
    return own not in (vars(Tensor)["__torch_function__"], torch._C._disabled_torch_function_impl)


def without_class(tensor: Tensor) -> Tensor:
    """Return the same memory as a plain tensor, past all that its class says of functions (`__torch_function__`)."""
    with torch._C.DisableTorchFunctionSubclass():
        return torch.Tensor.detach(tensor)
