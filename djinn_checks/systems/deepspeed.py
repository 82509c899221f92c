"""DeepSpeed's ZeRO-3 with the parameters on the CPU (ZeRO-Inference): modules gathered ahead of their use."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from typing import Any

import torch

from djinn_checks.errors import SystemNotInstalledError, SystemUnavailableError
from djinn_checks.layers import decoder_blocks
from djinn_checks.models.open import Model
from djinn_checks.systems.base import System


class DeepSpeedSystem(System):
    """Keeps no weight beyond its use; the budget is split between live and prefetched parameters. It counts nothing."""

    name = "deepspeed"

    def __init__(self, model: Model, *, device: torch.device, budget_bytes: int) -> None:
        super().__init__(model, device=device, budget_bytes=budget_bytes)
        if importlib.util.find_spec("deepspeed") is None:
            raise SystemNotInstalledError("system 'deepspeed' is not installed; `pip install deepspeed`")
        if device.type != "cuda":
            raise SystemUnavailableError(f"system 'deepspeed': ZeRO-3 offload needs a GPU, got device {str(device)!r}")
        self._engine: Any = None

    def open(self) -> Any:
        torch.cuda.set_device(self.device.index or 0)
        _join_a_group_of_one()
        import deepspeed  # seconds to import, and needed by this system alone

        module = self.model.resident(torch.device("cpu"))
        block = sum(parameter.numel() for parameter in decoder_blocks(module)[0][1].parameters())
        zero = {
            "stage": 3,
            "offload_param": {"device": "cpu", "pin_memory": True},
            "stage3_prefetch_bucket_size": block,
            "stage3_max_live_parameters": max(block, self.budget_bytes // self.model.dtype.itemsize - block),
            "stage3_param_persistence_threshold": 0,
        }
        kinds = {torch.float16: "fp16", torch.bfloat16: "bf16"}
        kind = {kinds[self.model.dtype]: {"enabled": True}} if self.model.dtype in kinds else {}
        config = {"zero_optimization": zero, "train_micro_batch_size_per_gpu": 1, **kind}
        self._engine, *_ = deepspeed.initialize(model=module, config=config)
        self._engine.eval()
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.destroy()
            self._engine = None


def _join_a_group_of_one() -> None:
    """DeepSpeed wants a process group, of this process alone."""
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    if not torch.distributed.is_initialized():
        store = os.path.join(tempfile.mkdtemp(prefix="djinn-checks-"), "group")
        torch.distributed.init_process_group("nccl", init_method=f"file://{store}", rank=0, world_size=1)
