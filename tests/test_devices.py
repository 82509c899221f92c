"""A name of a device or a data type means the same everywhere, and one that nothing has is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from djinn_checks.devices import DTYPE_NAMES, choose_device, choose_dtype
from djinn_checks.errors import ParamsError, SystemUnavailableError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "device"),
    [("auto", "cuda:0"), ("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_name_is_a_device_with_its_number(name: str, device: str) -> None:
    assert choose_device(name) == torch.device(device)


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_that_is_not_there_is_not_replaced_by_another() -> None:
    with pytest.raises(SystemUnavailableError, match=r"'cuda:2' was asked for, and PyTorch sees 2 GPU"):
        choose_device("cuda:2")


def test_without_a_gpu_only_its_own_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == CPU
    with pytest.raises(SystemUnavailableError, match="use auto or cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "auto:0", ""])
def test_a_name_that_no_device_has_is_refused(name: str) -> None:
    with pytest.raises(ParamsError, match="expected auto, cpu, cuda or cuda:<index>, got"):
        choose_device(name)


def test_a_data_type_has_its_name_and_a_default_by_the_device() -> None:
    assert [choose_dtype(name, CPU) for name in DTYPE_NAMES] == [torch.float32, torch.bfloat16, torch.float16]
    assert (choose_dtype(None, CPU), choose_dtype(None, GPU)) == (torch.float32, torch.float16)
    with pytest.raises(ParamsError, match="dtype: expected float32, bfloat16, float16, got 'device'"):
        choose_dtype("device", CPU)


def test_reading_names_loads_no_torch() -> None:
    code = "import sys, djinn_checks.params; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
