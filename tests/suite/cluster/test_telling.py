"""How a suite on several hosts is told: a bar for whatever runs, or a line per host."""

from __future__ import annotations

from pathlib import Path

from djinn_checks.commands.on_ray import HostsTeller
from djinn_checks.report.progress import Stage
from tests.suite.cluster.hosts import host, suite


def test_in_a_pipe_each_host_has_a_line_at_intervals_whatever_runs_there(tmp_path: Path) -> None:
    first, second = suite(tmp_path, "logits-a", "logits-b")
    said: list[str] = []
    times = [0.0]
    teller = HostsTeller(2, None, said.append, clock=lambda: times[0])
    teller.start(first, host(1))
    teller.start(second, host(1))
    for times[0] in (1.0, 15.5, 16.0, 29.0, 31.0):
        teller.tell(first, host(1), Stage("pass", 1, 2))
        teller.tell(second, host(1), Stage("pass", 1, 4))
    teller.end(first, host(1))
    teller.tell(first, host(1), Stage("too late", 1, 2))
    teller.again(second, host(1), "the host died")
    assert said == [
        "...  host 1: logits-a (0 of 2 done): starts",
        "...  host 1: logits-b (0 of 2 done): starts",
        "...  host 1: logits-a (0 of 2 done): pass, 50%, 16 s",
        "...  host 1: logits-a (0 of 2 done): pass, 50%, 31 s",
        "...  logits-b was lost on host 1 and is tried again: the host died",
    ]


def test_on_a_terminal_whatever_runs_has_a_bar_that_goes_with_it(tmp_path: Path) -> None:
    first, second = suite(tmp_path, "logits-a", "logits-b")
    bars: dict[str, tuple[str, float]] = {}

    def show(key: str, text: str | None, share: float) -> None:
        if text is None:
            bars.pop(key, None)
        else:
            bars[key] = (text, share)

    teller = HostsTeller(2, show, print)
    teller.start(first, host(1))
    teller.start(second, host(2))
    teller.tell(second, host(2), Stage("pass 1 of 3", 1, 4))
    assert bars == {
        "logits-a": ("host 1: logits-a (0 of 2 done): starts", 0.0),
        "logits-b": ("host 2: logits-b (0 of 2 done): pass 1 of 3, 25%", 0.25),
    }
    teller.end(first, host(1))
    assert list(bars) == ["logits-b"]
