"""What is expected of a host of this type: figures from the parameters, or those of an earlier outcome."""

from __future__ import annotations

import math

from djinn_checks.checks.host.evidence import Expectation, HostEvidence
from djinn_checks.checks.host.figures import NAMES
from djinn_checks.errors import OutcomeError, ParamsError
from djinn_checks.measurements import host
from djinn_checks.outcome import Outcome
from djinn_checks.params import HostParams


def check_expected(params: HostParams) -> None:
    """Refuse figures that no host has, and an earlier outcome that cannot be read, before anything runs.

    Raises:
        ParamsError: as said.
    """
    unknown = sorted(set(params.expect) - set(NAMES))
    if unknown:
        raise ParamsError(f"expect: there is no figure {', '.join(unknown)}; known: {', '.join(NAMES)}")
    wrong = [name for name, value in params.expect.items() if not 0 < value < math.inf]
    if wrong:
        raise ParamsError(f"expect: expected numbers above 0, got {params.expect[wrong[0]]} for {wrong[0]}")
    if params.against:
        _load(params.against)


def expect_figures(params: HostParams, evidence: HostEvidence) -> Expectation:
    """Return the figures that are expected, those of the parameters before those of the earlier outcome.

    Raises:
        ParamsError: the earlier outcome is of another type of host, or cannot be read.
    """
    if not params.against:
        return Expectation(figures=dict(params.expect), source="the parameters (`expect`)")
    earlier = host.read(_load(params.against).measurements)
    links = earlier.get("links") or []
    then = sorted((link["name"], link["max_generation"] or 0, link["max_width"] or 0) for link in links)
    now = sorted((link.plan.name, link.plan.max_generation or 0, link.plan.max_width or 0) for link in evidence.seen)
    if then != now:
        raise ParamsError(
            f"against: {params.against} is of another type of host, {_name(then)}, and this one has {_name(now)}"
        )
    return Expectation(
        figures={**(earlier.get("figures") or {}), **params.expect},
        source=f"the earlier outcome {params.against}" + (" and the parameters" if params.expect else ""),
    )


def _load(path: str) -> Outcome:
    try:
        outcome = Outcome.load(path)
    except OutcomeError as error:
        raise ParamsError(f"against: {error}") from error
    if outcome.check != "host":
        raise ParamsError(f"against: {path} is an outcome of the {outcome.check} check, expected one of host")
    return outcome


def _name(links: list[tuple[str, int, int]]) -> str:
    counts = {link: links.count(link) for link in links}
    return ", ".join(f"{count} x {name} (gen {gen} x{width})" for (name, gen, width), count in counts.items()) or "none"
