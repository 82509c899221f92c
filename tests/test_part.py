"""`--gpu` has every process see the GPUs that were named, and no other; what cannot be is refused with a sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from djinn_checks.cli import main
from djinn_checks.commands.part import refuse_other_devices, seeing_gpus
from djinn_checks.errors import ParamsError
from djinn_checks.instruments.gpus import Gpu, HostGpus
from djinn_checks.suite.machine import find_other_gpu


def gpu(uuid: str, left_out: str = "") -> Gpu:
    return Gpu(uuid=uuid, name="NVIDIA H200", max_generation=5, max_width=16, numa_node=0, path=None, nvlinks=0,
               left_out=left_out)  # fmt: skip


HOST = HostGpus(gpus=(gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c", "it is partitioned (MIG)")), pairs=())


def test_a_child_sees_the_named_gpu_alone_and_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with seeing_gpus(["GPU-b"], HOST):
        code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'])"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert child.stdout.split() == ["GPU-b", "PCI_BUS_ID"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    with seeing_gpus([], HOST):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(("uuids", "said"), [
    (["GPU-x"], "no GPU of that UUID; it has GPU-a \\(NVIDIA H200\\), GPU-b"),
    (["GPU-c"], "partitioned"),
    (["GPU-a", "GPU-a"], "stands twice"),
    (["0"], "no GPU of that UUID"),
])  # fmt: skip
def test_a_gpu_that_cannot_be_used_is_refused(uuids: list[str], said: str) -> None:
    with pytest.raises(ParamsError, match=said), seeing_gpus(uuids, HOST):
        pass


def test_the_command_refuses_a_gpu_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "params/replay", "--gpu", "GPU-there-is-none"]) == 2
    assert "--gpu GPU-there-is-none: this host has no GPU of that UUID" in capsys.readouterr().err


def test_a_device_that_is_hidden_is_refused_and_others_are_not() -> None:
    refuse_other_devices(["cuda:1", "auto", None], 0)
    refuse_other_devices(["cuda:0", "cuda", "auto", "cpu", None], 1)
    refuse_other_devices(["cuda:1"], 2)
    with pytest.raises(ParamsError, match="cuda:1 is hidden by --gpu"):
        refuse_other_devices(["cpu", "cuda:1"], 1)


def test_a_run_on_another_gpu_is_not_taken_for_one_on_this() -> None:
    here = {"CUDA_VISIBLE_DEVICES": "GPU-a"}
    there = {"device": "cuda:0", "variables": {"CUDA_VISIBLE_DEVICES": "GPU-b"}}
    assert "it ran on GPU-b, and GPU-a was asked for" in find_other_gpu(there, here)
    assert find_other_gpu({"device": "cuda:0"}, here) != ""
    assert find_other_gpu(there, {"CUDA_VISIBLE_DEVICES": "GPU-b"}) == ""
    assert find_other_gpu({"device": "cpu"}, here) == ""
    assert find_other_gpu(there, {"CUDA_VISIBLE_DEVICES": "1"}) == ""
