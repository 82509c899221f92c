"""The names that people give to devices and data types, and what PyTorch makes of them on this machine.

Params and the command line only read the names, so torch is imported where a device or a data type is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from djinn_checks.errors import ParamsError, SystemUnavailableError

if TYPE_CHECKING:
    import torch

DEVICE_NAMES = "auto, cpu, cuda or cuda:<index>"

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPE_NAMES: tuple[DtypeName, ...] = get_args(DtypeName)


def is_device_name(name: str) -> bool:
    """Tell whether this names a device that some machine could have."""
    kind, colon, index = name.partition(":")
    return index.isdecimal() and kind == "cuda" if colon else kind in ("auto", "cpu", "cuda")


def choose_device(name: str) -> torch.device:
    """Return the device of a name on this machine; "auto" is the first GPU, or else the CPU.

    Raises:
        ParamsError: it is no name of a device.
        SystemUnavailableError: a GPU was asked for by name and is not there.
    """
    import torch

    if not is_device_name(name):
        raise ParamsError(f"device: expected {DEVICE_NAMES}, got {name!r}")
    kind, _, index = name.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cpu" or (kind == "auto" and not count):
        return torch.device("cpu")
    number = int(index or 0)
    if number >= count:
        raise SystemUnavailableError(
            f"device: {name!r} was asked for, and PyTorch sees {count} GPU(s); use auto or cpu"
        )
    return torch.device("cuda", number)


def choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """Return the data type of a name; without one float16, which a CPU is slow at: there it is float32.

    Raises:
        ParamsError: it is no name of a data type of weights.
    """
    import torch

    chosen = name or ("float32" if device.type == "cpu" else "float16")
    if chosen not in DTYPE_NAMES:
        raise ParamsError(f"dtype: expected {', '.join(DTYPE_NAMES)}, got {chosen!r}")
    dtype: torch.dtype = getattr(torch, chosen)
    return dtype
