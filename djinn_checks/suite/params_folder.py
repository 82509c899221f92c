"""A suite as it lies on disk: a folder of params files, all of them validated before anything runs.

`<check>.yaml` and `<check>-<variant>.yaml` run `notebooks/<check>.ipynb`; `suite.yaml`, if it is there, holds the
suite's time limits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

import yaml
from pydantic import Field

from djinn_checks.bounded import MOST_BYTES_OF_PARAMS, read_text, refuse_bulk
from djinn_checks.errors import ParamsError, RunnerError
from djinn_checks.nearest import find_nearest, suggest
from djinn_checks.outcome.fields import make_encodable
from djinn_checks.params import PARAMS, Params
from djinn_checks.suite.execution import Job, find_notebook
from djinn_checks.suite.given import refuse_unknown_names

LIMITS_FILE = "suite.yaml"
_SUFFIXES = (".yaml", ".yml")
_FINISHED = "outcome"
"""The parameter by which a notebook shows a finished outcome in place of measuring."""

Checked = TypeVar("Checked", bound=Params)
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Limits(Params):
    """How long the notebooks of a suite may take, in seconds of wall time. What runs over is an ERROR."""

    check: ClassVar[str] = "suite"

    timeout_s: Seconds = 3600.0
    """For each notebook as a whole, its kernel's start included."""
    cell_timeout_s: Annotated[int, Field(gt=0)] | None = None
    """For each cell of a notebook, in whole seconds, as papermill counts them; empty: none but `timeout_s`."""
    suite_timeout_s: Seconds | None = None
    """For all notebooks together; empty: none. Those that it leaves no time for are not started."""

    def replace_by(self, **given: float | None) -> Self:
        """Return these limits with those in place that are given, and not None."""
        return self.create(**self.model_dump() | {name: value for name, value in given.items() if value is not None})


def read_suite(folder: Path, only: Iterable[str] = (), given: Mapping[str, Any] = MappingProxyType({})) -> list[Job]:
    """Read and validate every params file of a suite before anything runs.

    Args:
        folder: holds the params files; or one of them, which then runs alone.
        given: parameters in place of what the files say, for each check that knows their names.
        only: run these alone, in the order of the folder: a check is all of its files, `agents.yaml` that one file.

    Raises:
        ParamsError: a file is not a mapping of known names to possible values.
        RunnerError: the folder has no params file, `only` names none of them, or a notebook is missing.
    """
    if folder.is_file():
        folder, only = folder.parent, [folder.name]
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in _SUFFIXES and file.name != LIMITS_FILE)
    _refuse_impossible_names(folder, files)
    if not files:
        raise RunnerError(f"suite {folder}: {_say_what_is_there(folder)}")
    called = [{file.name, file.stem, _check_of(file.stem)} for file in files]
    unknown = sorted(set(only) - set().union(*called))
    if unknown:
        names = ", ".join(file.stem for file in files)
        raise RunnerError(f"suite {folder}: --only names {', '.join(unknown)}; it has {names}")
    chosen = [file for file, names in zip(files, called, strict=True) if not only or names & set(only)]
    jobs = [_read_job(file, given) for file in chosen]
    unused = sorted(set(given) - {name for job in jobs for name in PARAMS[job.check].model_fields})
    if unused:
        checks = ", ".join(dict.fromkeys(job.check for job in jobs))
        raise ParamsError(f"--set {', '.join(unused)}: none of the checks that would run ({checks}) has it")
    return jobs


def read_limits(folder: Path) -> Limits:
    """Return the time limits of a suite; the defaults if it has no `suite.yaml`.

    Raises:
        ParamsError: the file is not a mapping of known names to possible values.
    """
    file = (folder.parent if folder.is_file() else folder) / LIMITS_FILE
    values = _read_values(file) if file.is_file() else {}
    return _validate(Limits, file, values)


def _say_what_is_there(folder: Path) -> str:
    """Return why this is no suite, and what near it is one."""
    if folder.suffix.lower() in _SUFFIXES:
        beside = sorted(file.name for file in folder.parent.glob(f"*{folder.suffix}") if file.name != LIMITS_FILE)
        hint = suggest(folder.name, beside, otherwise=f"there are {', '.join(beside) or 'none'}")
        return f"there is no such file; {hint}"
    if not folder.exists():
        suites = _list_suites(folder.parent)
        nearest = find_nearest(folder.name, suites)
        hint = f"; did you mean {folder.parent / nearest}?" if nearest else _tell_suites(folder.parent, suites)
        return f"there is no such folder{hint}"
    return f"expected a folder with <check>.yaml files, found none there{_tell_suites(folder, _list_suites(folder))}"


def _list_suites(folder: Path) -> list[str]:
    return sorted({file.parent.name for suffix in _SUFFIXES for file in folder.glob(f"*/*{suffix}")})


def _tell_suites(folder: Path, suites: Sequence[str]) -> str:
    return f"; {folder} has the suites {', '.join(suites)}" if suites else ""


def _refuse_impossible_names(folder: Path, files: Sequence[Path]) -> None:
    """See that each file has a name of its own, which is the run's: it names all that the run leaves."""
    for name, same in itertools.groupby(sorted(files, key=lambda file: file.stem), key=lambda file: file.stem):
        names = [file.name for file in same]
        if len(names) > 1:
            raise RunnerError(f"suite {folder}: {' and '.join(names)} would both be the run {name}; rename one")
        if make_encodable(name) != name or not name.isprintable():
            raise RunnerError(f"suite {folder}: {names[0]!r} is no name that a report can have; rename it")
    if LIMITS_FILE.partition(".")[0] in {file.stem for file in files}:
        raise RunnerError(f"suite {folder}: time limits stand in {LIMITS_FILE}, in no file with another ending")


def _check_of(name: str) -> str:
    return name.partition("-")[0]


def _read_job(file: Path, given: Mapping[str, Any]) -> Job:
    check = _check_of(file.stem)
    if check not in PARAMS:
        raise RunnerError(f"{file}: there is no check of that name; known: {', '.join(PARAMS)}")
    fields = PARAMS[check].model_fields
    own, asked = _read_values(file), {name: value for name, value in given.items() if name in fields}
    values, replaced = (
        own | asked,
        tuple(name for name, value in asked.items() if name not in own or own[name] != value),
    )
    resolved = _validate(PARAMS[check], file, values).model_dump(mode="json")
    if resolved.get(_FINISHED):
        raise ParamsError(
            f"{file}: {_FINISHED}: a suite measures, and does not show what was measured some other day or elsewhere; "
            f"got {resolved[_FINISHED]!r}; leave it out, and explore a finished outcome in the notebook by hand"
        )
    try:
        refuse_unknown_names(resolved)
    except ParamsError as error:
        raise ParamsError(f"{file}: {error}") from None
    notebook = find_notebook(check)
    return Job(
        name=file.stem,
        check=check,
        params_file=file,
        notebook=notebook,
        values=values,
        replaced=replaced,
        resolved=resolved,
    )


class _Loader(yaml.SafeLoader):
    """Reads YAML as it is meant: a key that stands twice in a mapping is an error, and not the last one's value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"{key.value!r} stands twice, in lines {lines[key.value]} and {line}; leave one")
            lines[key.value] = line
        return node


def _read_values(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(read_text(file, MOST_BYTES_OF_PARAMS), Loader=_Loader)
        refuse_bulk(values)
    except OSError as error:
        raise ParamsError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParamsError(f"{file}: cannot be read as YAML ({error})") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ParamsError(f"{file}: expected `name: value` lines, got {type(values).__name__}")
    return values


def _validate(kind: type[Checked], file: Path, values: dict[str, Any]) -> Checked:
    try:
        return kind.create(**{str(name): value for name, value in values.items()})
    except ParamsError as error:
        raise ParamsError(f"{file}: {error}") from None
