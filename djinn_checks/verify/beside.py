"""What lies beside an outcome and says the same in another form: its notebook, its params file, its samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from djinn_checks.bounded import MOST_BYTES, MOST_BYTES_OF_PARAMS, read_bytes, read_text, refuse_bulk
from djinn_checks.errors import OutcomeError, ParamsError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.params import PARAMS
from djinn_checks.report.frames import list_frames
from djinn_checks.report.load import load_outcome
from djinn_checks.suite.doubts import only_params
from djinn_checks.verify.finding import Finding, agrees, believed, disagrees, unreadable

_SAME = ("check", "status", "criteria", "measurements", "params", "summary", "started_at")
"""What the runner leaves as the notebook had it; it adds to the rest."""


def verify_notebook(folder: Path, name: str, outcome: Outcome) -> Iterator[Finding]:
    """Hold the outcome that the executed notebook shows against the file."""
    file = f"{name}.ipynb"
    if not (folder / file).exists():
        return
    if outcome.status is Status.ERROR:
        yield believed(file, "notebook", "the runner settled the ERROR; the notebook may have shown another outcome")
        return
    try:
        shown = _to_dict(load_outcome(folder / file))
    except OutcomeError as error:
        yield unreadable(file, "notebook", str(error))
        return
    told = _to_dict(outcome)
    different = [part for part in _SAME if told[part] != shown[part]]
    for part in different:
        place = _find_difference(told[part], shown[part], part)
        yield disagrees(file, part, f"{place[0]} is {place[2]} in the notebook and {place[1]} in {name}.outcome.json")
    if not different:
        yield agrees(file, "the outcome it shows", f"{name}.outcome.json: {', '.join(_SAME)}")
    yield believed(file, "code and words", "what its other cells hold is shown on the page and derived from nothing")


def verify_params(folder: Path, name: str, outcome: Outcome) -> Iterator[Finding]:
    """Hold the params file against the parameters that the outcome says it ran with."""
    file = f"{name}.params.yaml"
    if not (folder / file).exists():
        return
    try:
        given = yaml.safe_load(read_text(folder / file, MOST_BYTES_OF_PARAMS)) or {}
        refuse_bulk(given)
        if not isinstance(given, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        yield unreadable(file, "params", str(error).partition("\n")[0])
        return
    strange = [str(key) for key in given if key not in outcome.params]
    yield from (disagrees(file, key, f"{name}.outcome.json ran with no such parameter") for key in strange)
    if strange:
        return
    known = PARAMS.get(outcome.check)
    try:
        asked = known.create(**given).model_dump() if known else given
    except (ParamsError, TypeError) as error:
        changed = [key for key in given if _is_other(given[key], outcome.params[key])]
        yield from (_params_differ(file, name, key, given[key], outcome.params[key]) for key in changed)
        if changed:
            return
        yield believed(file, "params", f"this version cannot read them ({str(error).partition(chr(10))[0]})")
        return
    different = [key for key in given if outcome.params[key] != _plain(asked[key])]
    yield from (_params_differ(file, name, key, asked[key], outcome.params[key]) for key in different)
    for key in asked.keys() & outcome.params.keys() - given.keys():
        if _is_other(_plain(asked[key]), outcome.params[key]):
            ran = f"{name}.outcome.json ran with {outcome.params[key]!r:.80}"
            yield believed(file, key, f"is left out; {ran}, and by itself this version takes {asked[key]!r:.80}")
    if given and not different:
        yield agrees(file, "params", f"{len(given)} that {name}.outcome.json ran with")


def verify_frames(folder: Path, name: str, outcome: Outcome) -> Iterator[Finding]:
    """Hold each table of samples against the one that is made of the outcome again."""
    prefix, suffix = f"{name}.samples.", ".csv"
    there = [file.name for file in folder.iterdir() if file.name.startswith(prefix) and file.name.endswith(suffix)]
    if not there:
        return
    try:
        frames = {f"{prefix}{key}{suffix}": frame.to_csv(index=False) for key, frame in list_frames(outcome).items()}
    except Exception as error:  # a system's own account may be of another shape
        yield believed(there[0], "samples", f"this version makes no tables of the outcome ({type(error).__name__})")
        return
    for file in sorted(there):
        if "." in file.removeprefix(prefix).removesuffix(suffix):
            continue  # of a run whose own name is longer
        try:
            text = read_bytes(folder / file, MOST_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            yield unreadable(file, "samples", str(error))
            continue
        yield _hold_lines(file, text, frames.get(file), f"{name}.outcome.json")


def _hold_lines(file: str, text: str, made: str | None, source: str) -> Finding:
    if made is None:
        return disagrees(file, "samples", f"{source} has no such samples")
    if text == made:
        return agrees(file, "samples", f"{source}, line by line")
    told, again = text.splitlines(), made.splitlines()
    place = next((at for at, pair in enumerate(zip(told, again, strict=False)) if pair[0] != pair[1]), None)
    if place is None and len(told) == len(again):
        return disagrees(file, "samples", f"has other ends of lines than {source} gives; it was edited or converted")
    if place is None:
        return disagrees(file, "samples", f"has {len(told):,} lines, and by {source} there are {len(again):,}")
    return disagrees(
        file, f"line {place + 1}", f"says {told[place][:80]!r}, and by {source} it is {again[place][:80]!r}"
    )


def _to_dict(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as data, without where its notebook was told to save it."""
    return {**outcome.to_dict(), "params": only_params(outcome.params)}


def _params_differ(file: str, name: str, key: str, asked: Any, ran: Any) -> Finding:
    return disagrees(file, key, f"asks for {asked!r:.80}, and {name}.outcome.json ran with {ran!r:.80}")


def _is_other(given: Any, ran: Any) -> bool:
    """Tell whether two values are surely not the same, however a parameter is read: a number may come as text."""
    if isinstance(given, list | tuple | dict) or isinstance(ran, list | tuple | dict):
        return type(_plain(given)) is type(_plain(ran)) and _plain(given) != _plain(ran)
    try:
        return float(given) != float(ran)
    except (TypeError, ValueError):
        return str(given) != str(ran)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _find_difference(told: Any, shown: Any, path: str) -> tuple[str, str, str]:
    """Return the first place where two values differ, and both."""
    if isinstance(told, dict) and isinstance(shown, dict):
        for key in [*told, *(key for key in shown if key not in told)]:
            if key not in told or key not in shown or told[key] != shown[key]:
                return _find_difference(told.get(key), shown.get(key), f"{path}.{key}")
    if isinstance(told, list) and isinstance(shown, list):
        for number, (one, other) in enumerate(zip(told, shown, strict=False)):
            if one != other:
                label = one.get("name", number) if isinstance(one, dict) else number
                return _find_difference(one, other, f"{path}[{label}]")
        if len(told) != len(shown):
            return path, f"{len(told):,} long", f"{len(shown):,} long"
    return path, f"{told!r:.60}", f"{shown!r:.60}"
