"""The hosts of a folder that has outcomes of several: which hardware, which runs, and the software of each."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.hosts import find_machines
from djinn_checks.report.tables import Html, fold, render_mapping, render_table

_NOTE = (
    "Outcomes hold no name of a host: a label is made from the hardware that they tell of, unless whoever merged the "
    "folders gave one. Hosts that are built alike share such a label."
)


def render_hosts(outcomes: Mapping[str, Outcome], hosts: Mapping[str, str]) -> Html:
    """Return the hosts as a table, and machine and software of each, folded.

    Args:
        outcomes: by the names of the runs.
        hosts: by the same names.
    """
    machines, by_host = find_machines(outcomes), group_by_host(outcomes, hosts)
    rows = [
        (host, "; ".join(dict.fromkeys(machines[name].describe() for name in runs)), ", ".join(runs))
        for host, runs in by_host.items()
    ]
    table = render_table("Hosts", ("Host", "Hardware", "Runs"), rows, note=_NOTE, numeric=False)
    return Html(table + "".join(_software(host, runs) for host, runs in by_host.items()))


def group_by_host(outcomes: Mapping[str, Outcome], hosts: Mapping[str, str]) -> dict[str, dict[str, Outcome]]:
    """Return the outcomes by their hosts, in the order of these."""
    found: dict[str, dict[str, Outcome]] = {}
    for name, outcome in outcomes.items():
        found.setdefault(hosts[name], {})[name] = outcome
    return dict(sorted(found.items()))


def find_shared_facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that all checks of a suite have in common: without what each of them was about."""
    return {name: value for name, value in environment.items() if name not in ("notebook", "system", "read")}


def _software(host: str, runs: Mapping[str, Outcome]) -> Html:
    known = [facts for outcome in runs.values() if (facts := find_shared_facts(outcome.environment))]
    if not known:
        return Html("")
    caption = f"Machine and software: {host}"
    differ = any(facts != known[0] for facts in known)
    note = f"<p>Not all checks of {escape(host)} ran in the same environment; each report has its own.</p>" * differ
    return Html(fold(caption, render_mapping(caption, known[0])) + note)
