"""AirLLM: every module is read from its own file right before it runs and dropped right after."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import tempfile
from typing import Any

import torch

from djinn_checks.errors import SystemNotInstalledError
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class AirLLMSystem(System):
    """Ignores the budget: one module is on the device, the next is read meanwhile. It keeps no count of bytes.

    AirLLM reads checkpoints only, so the model is first saved in a temporary folder, which then holds it twice.
    """

    name = "airllm"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("airllm") is None:
            raise SystemNotInstalledError("system 'airllm' is not installed; `pip install airllm`")
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def open(self) -> Any:
        with contextlib.redirect_stdout(sys.stderr):  # it greets
            import airllm  # seconds to import, and needed by this system alone

            class WithoutTokenizer(airllm.AirLLMBaseModel):  # type: ignore[misc, name-defined]  # it has no types
                def get_tokenizer(self, hf_token: str | None = None) -> None:
                    """Prompts come as token ids."""

            self._folder = tempfile.TemporaryDirectory(prefix="djinn-checks-airllm-")
            resident: Any = self.model.resident(torch.device("cpu"))
            resident.save_pretrained(self._folder.name, max_shard_size="2GB")
            return WithoutTokenizer(self._folder.name, device=str(self.device), dtype=self.model.dtype)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
