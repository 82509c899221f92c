"""What a server's threads waited for a processor is the machine's, and not the server's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from djinn_checks.instruments.server_memory import MemorySeries, _read_waits


def test_a_server_is_kept_waiting_while_it_is_ready_and_others_run() -> None:
    times = [number * 0.02 for number in range(500)]
    waits = [max(0.0, min(at, 5.0) - 4.0) for at in times]
    series = MemorySeries("test", times, [0] * len(times), waits)
    assert series.kept_waiting_s(0.0, 3.5) == 0
    assert series.kept_waiting_s(3.5, 6.0) == pytest.approx(1.0)
    assert series.kept_waiting_s(6.0, 9.0) == 0
    assert series.stalled_s(3.5, 6.0) == 0, "the reader came all the while"


def test_a_process_that_shares_a_processor_is_seen_to_wait_and_one_that_sleeps_is_not() -> None:
    core, spin = min(os.sched_getaffinity(0)), "while True: pass"
    pinned = f"import os; os.sched_setaffinity(0, {{{core}}}); print('ready', flush=True)"
    codes = [f"{pinned}; {what}" for what in ("import time; time.sleep(60)", f"\n{spin}", f"\n{spin}")]
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(subprocess.Popen([sys.executable, "-c", code.replace("; \n", "\n")],
                                                        stdout=subprocess.PIPE)) for code in codes]  # fmt: skip
        for process in started:
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        before = [_read_waits(Path(f"/proc/{process.pid}/task")) for process in started]
        if None in before:
            pytest.skip("this kernel does not say how long a thread waits for a processor")
        time.sleep(0.8)
        after = [_read_waits(Path(f"/proc/{process.pid}/task")) for process in started]
    asleep, *spinning = (end - start for start, end in zip(before, after, strict=True))  # type: ignore[operator]
    assert asleep < 0.1
    assert min(spinning) > 0.2
