"""Reference logits on disk, one file per prompt: a 70B vocabulary times 30 prompts does not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from djinn_checks.checks.logits.prompt_run import PromptLogits


@dataclass(frozen=True)
class BlockTrace:
    """The outputs of the model's parts in the forwards of one prompt: F forwards, P points, H hidden values."""

    digests: Tensor
    """[F, P] int64: digest of the whole output at each point (`djinn_checks.digest`)."""
    last: Tensor
    """[F, P, H], the model's dtype: the output's last position."""


class LogitSpool:
    """Writes each prompt's logits and block trace once, and reads them as memory-mapped tensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, index: int, logits: PromptLogits, trace: BlockTrace) -> None:
        """Write what the reference answered to prompt `index`."""
        tensors = {
            "prefill": logits.prefill.cpu(),
            "decode": logits.decode.cpu(),
            "tokens": logits.tokens,
            "digests": trace.digests,
            "last": trace.last,
        }
        torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, self._path(index))

    def read(self, index: int) -> tuple[PromptLogits, BlockTrace]:
        """Return what was written for prompt `index`; pages are read from disk as they are touched."""
        tensors = torch.load(self._path(index), mmap=True, weights_only=True)
        logits = PromptLogits(tensors["prefill"], tensors["decode"], tensors["tokens"])
        return logits, BlockTrace(tensors["digests"], tensors["last"])

    def _path(self, index: int) -> Path:
        return self._folder / f"prompt-{index:04d}.pt"
