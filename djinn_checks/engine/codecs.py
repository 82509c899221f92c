"""The codecs by their names. Without one, weights travel as they are."""

from __future__ import annotations

import torch

from djinn_checks.engine.ans import AnsCodec
from djinn_checks.engine.codec import Codec
from djinn_checks.engine.planes import PlanesCodec
from djinn_checks.errors import CodecError

CODECS = ("raw", "ans", "planes")


def open_codec(name: str, device: torch.device) -> Codec | None:
    """Return the codec of that name for `device`, or None for `raw`: weights travel as they are.

    Raises:
        CodecError: there is none of that name, or not for this device.
        SystemNotInstalledError: its library is missing.
    """
    if name == "raw":
        return None
    if name not in CODECS:
        raise CodecError(f"codec: expected one of {', '.join(CODECS)}, got {name!r}")
    if (name == "ans") != (device.type == "cuda"):
        fitting = "ans" if device.type == "cuda" else "planes"
        raise CodecError(f"codec {name!r} does not work on {device}; use {fitting!r} there, or 'raw'")
    return AnsCodec(device) if name == "ans" else PlanesCodec()


def default_codec_name(device: torch.device) -> str:
    """Return the name of the codec that works on `device`."""
    return "ans" if device.type == "cuda" else "planes"
