"""Attention that gives the same logits twice.

PyTorch may hand scaled dot-product attention to cuDNN. On an H200 (torch 2.11) its kernel for decoding
gave logits that differed by up to 0.02 between two runs of the same step at 300 tokens, on the resident
model and with nothing else changed, and it builds a new execution plan for every new cache length, which
stops the host for 40 ms. The other kernels do neither. So the checks turn cuDNN's off, for the reference
and the system alike: what is compared is the system, not the attention kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def reproducible_attention() -> Iterator[None]:
    """Keep scaled dot-product attention away from cuDNN, and put the setting back afterwards."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
