"""A process is held on the processors that are named, all of its threads, and let go again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from djinn_checks.errors import InstrumentError
from djinn_checks.instruments.processors import held_on, processor_pairs

TWO_THREADS = "import threading; threading.Thread(target=input).start(); print('ready', flush=True)"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", TWO_THREADS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.communicate("\n")


def places(pid: int) -> list[set[int]]:
    return [os.sched_getaffinity(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")]


def test_every_thread_of_another_process_is_held_and_let_go(process: subprocess.Popen[str]) -> None:
    one = min(os.sched_getaffinity(0))
    before = places(process.pid)
    assert len(before) == 2
    with held_on(process.pid, {one}):
        assert places(process.pid) == [{one}, {one}]
    assert places(process.pid) == before


def test_a_thread_that_starts_meanwhile_is_let_go_too() -> None:
    allowed, ended = os.sched_getaffinity(0), threading.Event()
    with held_on(os.getpid(), {min(allowed)}):
        thread = threading.Thread(target=ended.wait)
        thread.start()
        assert os.sched_getaffinity(thread.native_id or 0) == {min(allowed)}
    try:
        assert os.sched_getaffinity(thread.native_id or 0) == os.sched_getaffinity(0) == allowed
    finally:
        ended.set()
        thread.join()


def test_a_process_that_is_gone_is_named(process: subprocess.Popen[str]) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    with pytest.raises(InstrumentError, match=f"process {gone.pid}: is not there"), held_on(gone.pid, {0}):
        pass


def test_one_that_ends_meanwhile_hides_no_error_of_the_work(process: subprocess.Popen[str]) -> None:
    def work() -> None:
        with held_on(process.pid, {min(os.sched_getaffinity(0))}):
            process.kill()
            process.wait()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_the_pairs_are_of_what_this_process_may_use() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    pairs = processor_pairs()
    assert {one for pair in pairs for one in pair} <= set(allowed)
    with held_on(os.getpid(), allowed[:1]):
        assert processor_pairs() == [(allowed[0],)]
