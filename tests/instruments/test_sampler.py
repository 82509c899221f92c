"""The sampler process reads on whatever its parent does, ends when it should, and loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.counters import CounterSampler, CounterSeries
from djinn_checks.instruments.traces import load_trace, save_trace
from tests.instruments.fake_counters import RATE_BYTES_PER_S

FAKES = "tests.instruments.fake_counters"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where the sampler process finds the fakes


def test_it_counts_at_the_asked_rate_while_the_parent_holds_the_interpreter_lock() -> None:
    for _ in range(10):  # a machine with other work may stall any process for half a wrap: a hole, as it should be
        start, end, series = sample_while_the_lock_is_held()
        if series.bytes_between(start, end) is not None:
            break
    inside = (series.t_s > start) & (series.t_s < end)
    assert inside.sum() > 100
    assert series.bytes_between(start, end) == pytest.approx(RATE_BYTES_PER_S * (end - start), rel=0.01)
    assert series.bytes_between(start, end, "tx") == pytest.approx(RATE_BYTES_PER_S / 10 * (end - start), rel=0.01)


def sample_while_the_lock_is_held() -> tuple[float, float, CounterSeries]:
    """Return from when to when the interpreter's lock was held, and what was counted around that."""
    with CounterSampler(source=f"{FAKES}:steady", hz=500) as sampler:
        start = time.monotonic()
        while time.monotonic() - start < 0.6:
            sum(range(200_000))  # never lets go of the lock by itself
        end = time.monotonic()
        time.sleep(0.1)
        series = sampler.read()
    assert series is not None
    return start, end, series


def test_it_ends_with_its_block_and_its_samples_stay_readable() -> None:
    with CounterSampler(source=f"{FAKES}:steady") as sampler:
        time.sleep(0.05)
    assert not sampler.alive
    series = sampler.read()
    assert series is not None
    assert len(series.t_s) > 5


def test_live_readings_are_written_down_as_they_were_read(tmp_path: Path) -> None:
    with CounterSampler(source=f"{FAKES}:steady") as sampler:
        time.sleep(0.1)
        series = sampler.read()
    assert series is not None
    save_trace(series, tmp_path / "live.csv.gz")
    again = load_trace(tmp_path / "live.csv.gz")
    assert again.raw.rx.tolist() == series.raw.rx.tolist()
    assert again.rx_bytes.tolist() == series.rx_bytes.tolist()
    assert (again.raw.after_s >= again.raw.before_s).all()


def test_what_was_sampled_before_it_was_killed_is_there() -> None:
    with CounterSampler(source=f"{FAKES}:steady") as sampler:
        time.sleep(0.2)
        killed = time.monotonic()
        sampler._process.send_signal(signal.SIGKILL)
        sampler._process.wait(5)
        series = sampler.read()
    assert not sampler.alive
    assert series is not None
    assert killed - 0.1 < series.t_s[-1] < killed + 0.1


def test_sigterm_ends_it_by_itself_with_every_record_whole() -> None:
    with CounterSampler(source=f"{FAKES}:steady") as sampler:
        sampler._process.send_signal(signal.SIGTERM)
        assert sampler._process.wait(5) == 0
        assert sampler.read() is not None


def test_a_driver_that_goes_away_leaves_the_samples_up_to_then() -> None:
    with CounterSampler(source=f"{FAKES}:dies") as sampler:
        sampler._process.wait(5)
        series = sampler.read()
    assert series is not None
    assert 0 < series.t_s[-1] - series.t_s[0] < 0.3


def test_it_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import time\nfrom djinn_checks.instruments.counters import CounterSampler\n"
        f"with CounterSampler(source='{FAKES}:steady') as s:\n"
        "    print(s._process.pid, s._path, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, path = parent.stdout.readline().split()
        time.sleep(0.1)
        parent.kill()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid))
    assert os.path.getsize(path) > 1000, "the samples lie where they were written"


def test_without_a_gpu_there_is_no_source_and_every_reason_is_given() -> None:
    if os.path.exists("/dev/nvidiactl"):
        pytest.skip("this machine has a GPU")
    with CounterSampler() as sampler:
        assert sampler.source is None
        assert sampler.read() is None
        assert set(sampler.reasons) == {"field", "gpm", "throughput"}
        assert "no NVIDIA driver" in sampler.reasons["field"]


def test_a_source_that_cannot_be_loaded_is_an_error_that_shows_why() -> None:
    with (
        pytest.raises(InstrumentError, match="nothing_of_that_name"),
        CounterSampler(source=f"{FAKES}:nothing_of_that_name"),
    ):
        pass
