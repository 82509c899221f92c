"""Whatever ends a run: an ERROR with its cause, a report, no half file, no orphan. Real kernels, real disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from djinn_checks.cli import main
from djinn_checks.outcome import Outcome, Status
from djinn_checks.suite.runner import Result
from tests.suite.runs import SAVE, TRACE, alive, finished, run, write_params

TINY = "model: random:tiny\nbudget_fraction: 0.5\nprompts: 2\ndecode_tokens: 2\ndevice: cpu\n"
_WARDEN_PAPERMILL_KERNEL = 3
ENDLESS = TINY + "passes: 1000000\n"


def assert_error(result: Result, kind: str) -> str:
    """See that a run is settled as ERROR, with a report and nothing half written; return what it says."""
    assert result.outcome.status is Status.ERROR
    assert result.outcome.failure is not None
    assert result.outcome.failure.type == kind
    assert Outcome.load(result.outcome_file).status is Status.ERROR
    assert result.html_file is not None
    assert "<strong>ERROR</strong>" in result.html_file.read_text()
    assert not half_files(result.outcome_file.parent)
    return f"{result.outcome.failure.message} {result.outcome.failure.traceback}"


def half_files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".") or file.name.endswith(".part")]


def test_a_cell_over_its_time_is_an_error_and_says_what_it_printed_last(tmp_path: Path) -> None:
    slow = "print('so far, so good', flush=True)\nimport time\ntime.sleep(100)"
    result = run(tmp_path, SAVE, slow, cell_timeout_s=3)
    said = assert_error(result, "CellTimeout")
    assert "after 3 seconds" in said
    assert "so far, so good" in said


def test_an_error_of_a_dead_kernel_still_names_the_machine_and_the_params(tmp_path: Path) -> None:
    result = run(tmp_path, "import os; os._exit(3)")
    assert result.outcome.environment["memory"]["ram_bytes"] > 0
    assert result.outcome.environment["read"] == "after the run, by another process"


@pytest.fixture
def memory_limit() -> Iterator[Path]:
    """A control group that may have 400 MB, made by the kernel's own means; the file that takes process ids."""
    roots = ((Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"), (Path("/sys/fs/cgroup"), "memory.max"))
    for root, name in roots:
        group = root / f"djinn-checks-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(400 * 10**6))
            yield group / "cgroup.procs"
            return
        except OSError:
            continue
        finally:
            group.rmdir()
    pytest.skip("needs the right to make a control group with a memory limit")


def test_a_kernel_that_the_system_ends_for_want_of_memory_is_an_error_that_says_so(
    tmp_path: Path, memory_limit: Path
) -> None:
    eat = f"open({str(memory_limit)!r}, 'w').write(str(os.getpid()))\nx = b'1' * 10**9"
    result = run(tmp_path, SAVE, eat)
    assert "for want of memory" in assert_error(result, "OutOfMemory")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 512 kB, to be filled or locked."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_results_that_do_not_fit_the_disk_are_an_error_with_a_report_and_no_half_file(
    tmp_path: Path, disk: Path
) -> None:
    result = run(tmp_path, SAVE, "print('x' * 1_000_000)", out=disk)
    assert "No space left on device" in assert_error(result, "OSError")
    assert {file.name for file in disk.iterdir()} == {"logits.outcome.json", "logits.html"}


def test_a_full_disk_that_the_run_needs_for_itself_is_an_error_with_a_report(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    subprocess.run(["dd", "if=/dev/zero", f"of={disk / 'filler'}", "bs=4k"], check=False, capture_output=True)
    (tmp_path / "pid").write_text("0")
    assert "TMPDIR" in assert_error(run(tmp_path, SAVE), "OSError")
    assert {file.name for file in disk.iterdir()} == {"filler"}


def test_a_temporary_folder_that_becomes_full_is_named_and_no_dead_kernel(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    fill = "file = open(Path(save_to).with_name('filler'), 'wb', 0)\nwhile True: file.write(bytes(4096))"
    quiet = f"import contextlib\nwith contextlib.suppress(OSError): exec({fill!r})"
    said = assert_error(run(tmp_path, f"{quiet}\n{SAVE}"), "DiskFull")
    assert f"the disk of {disk} is full" in said
    assert "TMPDIR" in said


def test_a_disk_that_becomes_read_only_during_a_run_is_an_error_and_leaves_nothing(tmp_path: Path, disk: Path) -> None:
    result = run(tmp_path, SAVE, f"assert os.system('mount -o remount,ro {disk}') == 0", out=disk)
    assert result.outcome.status is Status.ERROR
    assert "Read-only file system" in result.outcome.summary
    assert list(disk.iterdir()) == []


def test_a_read_only_output_folder_is_refused_before_anything_runs(
    tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert main(["run", str(write_params(tmp_path / "suite", ENDLESS)), "--out", str(disk)]) == 2
    assert "Read-only file system" in capsys.readouterr().err


def start(
    suite: Path, out: Path, *options: str, **variables: str
) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """Start a suite whose second check does not end; wait for its kernel, and return both."""
    command = [sys.executable, "-m", "djinn_checks", "run", str(suite), "--out", str(out), *options]
    process = subprocess.Popen(command, preexec_fn=hear_signals, env={**os.environ, **variables})
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        started = psutil.Process(process.pid).children(recursive=True)
        if list(out.glob("*-a.html")) and len(started) >= _WARDEN_PAPERMILL_KERNEL:
            return process, started
        time.sleep(0.2)
    process.kill()
    raise AssertionError("the suite did not come so far")


def hear_signals() -> None:
    """Undo what a shell's `&` and nohup do to all that they start, these tests among it: signals are ignored there."""
    for ending in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ending, signal.SIG_DFL)


def assert_ended(
    process: subprocess.Popen[bytes], started: list[psutil.Process], out: Path, check: str = "logits"
) -> None:
    """See that the command ended as told, with everything that it started, and that the check it hit is an ERROR."""
    assert process.wait(60) == 130
    psutil.wait_procs(started, timeout=10)
    assert not [child for child in started if alive(child.pid)]
    hit = Outcome.load(out / f"{check}-b.outcome.json")
    assert hit.failure is not None
    assert (hit.status, hit.failure.type) == (Status.ERROR, "Interrupted")
    assert "<strong>ERROR</strong>" in (out / f"{check}-b.html").read_text()
    index = (out / "index.html").read_text()
    assert f"./{check}-a.html" in index
    assert f"./{check}-b.html" in index
    assert not half_files(out)


def test_ctrl_c_ends_the_suite_and_its_kernels_and_keeps_what_is_finished(tmp_path: Path) -> None:
    suite, out = write_params(tmp_path / "suite", f"trace: {TRACE}\ndevice: cpu\n", "pcie-a.yaml"), tmp_path / "out"
    write_params(suite, "model: random:tiny\nbudget_fraction: 0.5\nduration_s: 3600\ndevice: cpu\n", "pcie-b.yaml")
    process, started = start(suite, out)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)  # impatience changes nothing
    assert_ended(process, started, out, "pcie")
    assert Outcome.load(out / "pcie-a.outcome.json").status is Status.PASS


def test_sigterm_ends_the_suite_as_ctrl_c_does(tmp_path: Path) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    write_params(suite, ENDLESS, "logits-b.yaml")
    process, started = start(suite, out, "--resume")
    os.kill(process.pid, signal.SIGTERM)
    assert_ended(process, started, out)
    assert Outcome.load(out / "logits-a.outcome.json").status is Status.PASS


def runs_left(folder: Path) -> list[str]:
    return [place.name for place in folder.iterdir() if place.name.startswith("djinn-checks-run-")]


def test_a_runner_that_is_killed_leaves_no_kernel_and_no_folder(tmp_path: Path) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    write_params(suite, ENDLESS, "logits-b.yaml")
    temporary = tmp_path / "t"
    temporary.mkdir()
    process, started = start(suite, out, "--resume", TMPDIR=str(temporary))
    assert len(runs_left(temporary)) == 1
    process.kill()
    process.wait()
    psutil.wait_procs(started, timeout=30)
    assert not [child for child in started if alive(child.pid)]
    assert runs_left(temporary) == []


def test_a_runner_that_is_killed_with_its_warden_leaves_no_kernel_and_the_next_one_sweeps_its_folder(
    tmp_path: Path,
) -> None:
    suite, out = finished(tmp_path, a=Status.PASS)
    write_params(suite, ENDLESS, "logits-b.yaml")
    temporary = tmp_path / "t"
    temporary.mkdir()
    process, started = start(suite, out, "--resume", TMPDIR=str(temporary))
    (warden,) = psutil.Process(process.pid).children()
    warden.suspend()
    process.kill()
    warden.kill()
    process.wait()
    psutil.wait_procs(started, timeout=30)
    assert not [child for child in started if alive(child.pid)]
    assert len(runs_left(temporary)) == 1
    subprocess.run([sys.executable, "-c", "from djinn_checks.suite.scratch import sweep; sweep()"],
                   env={**os.environ, "TMPDIR": str(temporary)}, check=True)  # fmt: skip
    assert runs_left(temporary) == []
