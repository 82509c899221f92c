"""Reports with every kind of row, and with texts that mean to be more than texts."""

from __future__ import annotations

from dataclasses import replace

from djinn_checks.outcome import Criterion, Failure, Outcome, Status, judge, skip
from djinn_checks.report.gate.reports import Report
from tests.whole import whole

HOSTILE = (
    "\x00\x1b[2J\ud800\ufffe ]]> <b>&amp; | `x` [a](http://e.x) @octocat #1 $x$ \u202e"
    "%0A::error::y\r\n::set-output name=a::b ##[add-mask]c"
)
TRACE = "Traceback (most recent call last):\n  ...\nKeyError: 'x'\n"


def make_rows(text: str = "the link idles") -> tuple[Criterion, ...]:
    """Return a row of each status, and one that fails and only informs."""
    return (
        judge("holds", "It holds", 0, "==", 0, unit="tokens", evidence="made up"),
        judge("fails", f"It fails {text}", 0.5, ">=", 0.9, unit="share", evidence=text, failed=text),
        judge("informs", "It informs", 7, "<=", 5, unit="s", evidence="made up", required=False),
        judge("open", "It is open", None, "==", 0, unit="tokens", evidence="made up", missing=text),
        skip("asked", "It is not asked for", unit="tokens", reason="nobody asked"),
    )


def make_reports(text: str = "the link idles") -> list[Report]:
    """Return a report of each status that a check can have, and one that cannot be read."""
    facts = {"packages": {"torch": "2.11.0"}, "cpu": {"model": "A CPU"}, "device": "cpu"}
    failed = whole("logits", Status.FAIL, summary=f"fails: {text}", criteria=make_rows(text), environment=facts)
    failed = replace(failed, timings={"run_s": 12.3456}, started_at="2026-11-28T20:00:00+00:00", params={"a": {"b": 1}})
    stopped = Failure(type="KeyError", message=text, traceback=f"{TRACE}{text}", file="mine/own.py", line=7)
    return [
        Report(name="logits", outcome=failed, page="out/logits.html", asked_in="suite/logits.yaml"),
        Report(name="logits-ok", outcome=whole(), page="out/logits-ok.html"),
        Report(name="pcie", outcome=open_outcome()),
        Report(name="agents", outcome=whole("agents", Status.ERROR, summary=f"KeyError: {text}", failure=stopped)),
        Report(name="torn", outcome=None, why=f"torn.outcome.json cannot be read: {text}"),
    ]


def open_outcome() -> Outcome:
    return whole("pcie", Status.INCONCLUSIVE, summary="no counters", criteria=(make_rows()[3],))


def parse(line: str) -> tuple[str, dict[str, str], str]:
    """Read a command as the runner does (actions/runner, ActionCommand.TryParseV2)."""
    assert line.startswith("::")
    head, _, data = line[2:].partition("::")
    level, _, told = head.partition(" ")
    properties = dict(pair.split("=", 1) for pair in told.split(","))
    for token, spelled in (("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"), ("%", "%25")):
        properties = {name: value.replace(spelled, token) for name, value in properties.items()}
        data = data if token in ":," else data.replace(spelled, token)
    return level, properties, data
