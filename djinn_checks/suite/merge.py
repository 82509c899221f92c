"""One folder of many: shards of a suite, or one suite on several hosts. Nothing is overwritten, and nothing is lost.

The folders that are merged stay as they are. A run that only one of them has keeps its name. What several have under
one name is held against each other: the same outcome with the same evidence is kept once; different ones are kept
all, each under a name with its host (`logits@node-1`), and where that is the same, with its start and then its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from djinn_checks.errors import RunnerError
from djinn_checks.outcome import Outcome
from djinn_checks.report.suite.hosts import UNKNOWN, find_machines, is_label, join_host, split_host
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.suite.files import OUTCOME, list_files, list_names, read_finished
from djinn_checks.suite.folder import render_fault_notes, render_names, write_index
from djinn_checks.suite.lock import alone_in, reading
from djinn_checks.suite.shards import Split, read_splits, unite, write_splits

_PAGE, _NOTEBOOK = ".html", ".ipynb"
_DIGITS = 8
_MOST_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class Part:
    """A folder that is merged."""

    folder: Path
    host: str = ""
    """What its host is called where runs of one name are told apart; empty: after the hardware that outcomes name."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What came of merging."""

    folder: Path
    runs: Mapping[str, tuple[Path, ...]]
    """The names of all runs in the folder, and the folders that each is from: several, if they have the same."""
    notes: tuple[str, ...] = ()
    """What a reader should know, and nothing is wrong: same outcomes, other versions, runs that were renamed."""
    problems: tuple[str, ...] = ()
    """What is missing or cannot be read. All else is there."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One run of one folder."""

    name: str
    base: str
    host: str
    folders: tuple[Path, ...]
    files: Mapping[str, Path]
    """By what follows the run's name."""
    outcome: Outcome | None
    digest: str

    @property
    def when(self) -> str:
        started = self.outcome.started_at if self.outcome else ""
        return re.sub(r"[^0-9T]", "", started.partition("+")[0]) or "undated"


@dataclass(kw_only=True)
class _Told:
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def merge_folders(parts: Sequence[Part], out: Path) -> Merged:
    """Copy every run of several folders into one, and write its front page, crate and pages anew.

    Args:
        parts: the folders. They are read, and stay as they are.
        out: where all goes; made if it is not there, and must hold no run.

    Raises:
        RunnerError: a folder holds no outcome, a run writes there, two hosts have one name, `out` holds a run already,
            is one of the folders, or cannot be written. Nothing was written then.
    """
    _refuse_impossible(parts, out)
    told = _Told()
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(reading(part.folder))
        found = [run for part in parts for run in _read_part(part, told)]
        splits = unite(split for part in parts for split in _read_splits(part.folder, told))
        stack.enter_context(alone_in(out))
        if list_names(out):
            raise RunnerError(f"{out}: holds outcomes already, and nothing is overwritten; choose another with --out")
        named = _name_all(found, told)
        _copy_all(named, out)
        if splits:
            write_splits(out, splits)
        _say_of_shards(splits, {run.base for run in named.values()}, told)
        _say_of_versions(named, told)
        _make_pages(named, out, told)
    runs = {name: run.folders for name, run in named.items()}
    return Merged(folder=out, runs=runs, notes=tuple(told.notes), problems=tuple(told.problems))


def _refuse_impossible(parts: Sequence[Part], out: Path) -> None:
    if not parts:
        raise RunnerError("merge: expected folders of finished suites, got none")
    for part in parts:
        if part.host and not is_label(part.host):
            raise RunnerError(
                f"{part.host}={part.folder}: a host is named by letters, digits, hyphens and underscores, 40 at most"
            )
        if not part.folder.is_dir() or not list_names(part.folder):
            raise RunnerError(say_no_suite(part.folder))
        if part.folder.resolve() == out.resolve():
            raise RunnerError(f"{out}: is one of the folders that are merged; choose another with --out")


def _read_part(part: Part, told: _Told) -> Iterator[_Run]:
    finished = read_finished(part.folder)
    told.problems += [f"{part.folder}: {why}" for why in finished.unreadable.values()]
    machines = find_machines(finished.outcomes)
    for name in list_names(part.folder):
        outcome = finished.outcomes.get(name)
        base, host = split_host(name)
        host = host or part.host or (machines[name].label if outcome else UNKNOWN)
        files = {file.name.removeprefix(name): file for file in list_files(part.folder, name)}
        odd = {ending: why for ending, file in files.items() if (why := _why_left(file))}
        told.problems += [f"{files[ending]}: {why}, and was left" for ending, why in sorted(odd.items())]
        files = {ending: file for ending, file in files.items() if ending not in odd}
        if OUTCOME in files:
            digest = _digest_all(files)
            folders = (part.folder,)
            yield _Run(name=name, base=base, host=host, folders=folders, files=files, outcome=outcome, digest=digest)


def _why_left(file: Path) -> str:
    """Return why a file does not travel, or nothing. A link could lead to what its reader never meant to give away."""
    if not file.is_file():
        return "is no regular file"
    leads_out = file.is_symlink() and not file.resolve().is_relative_to(file.parent.resolve())
    return "is a link that leads out of its folder" if leads_out else ""


def _digest_all(files: Mapping[str, Path]) -> str:
    """Return the digest of a run's outcome and evidence."""
    found = [f"{ending} {_digest(files[ending])}" for ending in sorted(files.keys() - {_PAGE, _NOTEBOOK})]
    return hashlib.sha256("\n".join(found).encode(errors="surrogateescape")).hexdigest()[:_DIGITS]


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RunnerError(f"{file}: cannot be read ({error.strerror}); nothing was merged") from error


def _name_all(found: Iterable[_Run], told: _Told) -> dict[str, _Run]:
    """Return each different run once, by the name that it has in the merged folder."""
    groups: dict[str, list[_Run]] = {}
    for run in found:
        group = groups.setdefault(run.base, [])
        same = next((place for place, other in enumerate(group) if _is_same(other, run)), None)
        if same is None:
            group.append(run)
        else:
            told.notes.append(f"{run.name}: {group[same].folders[0]} and {run.folders[0]} have the same, kept once")
            group[same] = _unite(group[same], run)
    named: dict[str, _Run] = {}
    for group in groups.values():
        names = [group[0].name] if len(group) == 1 else _tell_apart(group)
        for name, run in zip(names, group, strict=True):
            named[name] = run
            if name != run.name:
                told.notes.append(f"{run.folders[0]}/{run.name}: is {name}")
    return dict(sorted(named.items()))


def _is_same(one: _Run, other: _Run) -> bool:
    """Tell whether two runs are one: the same outcome, and no different evidence. Pages are made anew anyway, and a
    notebook may be slim.
    """
    if one.outcome is None or other.outcome is None:
        return one.digest == other.digest
    is_same = one.outcome.to_dict() == other.outcome.to_dict()
    shared = one.files.keys() & other.files.keys() - {OUTCOME, _PAGE, _NOTEBOOK}
    return is_same and all(_digest(one.files[ending]) == _digest(other.files[ending]) for ending in shared)


def _unite(one: _Run, other: _Run) -> _Run:
    """Return one run of two that are the same: all files, of the notebooks the one that is not slim."""
    files = {**other.files, **one.files}
    notebooks = [run.files[_NOTEBOOK] for run in (one, other) if _NOTEBOOK in run.files]
    if notebooks:
        files[_NOTEBOOK] = max(notebooks, key=lambda file: file.stat().st_size)
    named = next((run for run in (one, other) if run.name != run.base), one)
    return _Run(name=named.name, base=one.base, host=named.host, folders=(*one.folders, *other.folders),
                files=files, outcome=one.outcome, digest=one.digest)  # fmt: skip


def _tell_apart(group: Sequence[_Run]) -> list[str]:
    """Return a name for each of several runs: by host, then by start, then by digest."""
    kept = [run.name if run.name != run.base else "" for run in group]  # who was renamed once keeps that name
    for marks in ((), ("when",), ("when", "digest")):
        names = [
            kept[place] or join_host(run.base, run.host, *(getattr(run, mark) for mark in marks))
            for place, run in enumerate(group)
        ]
        counts = Counter(names)
        again = [place for place, name in enumerate(names) if counts[name] > 1]
        if not again:
            return names
        kept = [name if counts[name] == 1 else "" for name in names]
    raise RunnerError(f"{group[0].base}: runs cannot be told apart: {', '.join(str(run.folders[0]) for run in group)}")


def _copy_all(named: Mapping[str, _Run], out: Path) -> None:
    """Copy every file of every run; all of them or none."""
    written: list[Path] = []
    try:
        for name, run in named.items():
            for ending, file in run.files.items():
                target = out / f"{name}{ending}"
                with target.open("xb") as opened, file.open("rb") as source:
                    written.append(target)
                    shutil.copyfileobj(source, opened)
                shutil.copystat(file, target)
    except OSError as error:
        for target in written:
            target.unlink(missing_ok=True)
        place = error.filename or out
        raise RunnerError(f"{place}: cannot be copied ({error.strerror}); nothing was merged") from error


def _read_splits(folder: Path, told: _Told) -> list[Split]:
    try:
        return read_splits(folder)
    except RunnerError as error:
        told.problems.append(str(error))
        return []


def _say_of_shards(splits: Sequence[Split], there: set[str], told: _Told) -> None:
    for split in splits:
        if split.missing:
            jobs = ", ".join(name for name, number in split.jobs if number in split.missing)
            numbers = ", ".join(f"{number}/{split.of}" for number in split.missing)
            told.problems.append(f"{split.suite}: shard {numbers} is missing, with {jobs}")
        lost = [name for name in split.expected if name not in there]
        if lost:
            told.problems.append(f"{split.suite}: a shard ran and left no outcome of {', '.join(lost)}")
    for suite, count in Counter(split.suite for split in splits).items():
        if count > 1:
            told.problems.append(f"{suite}: the shards are of {count} suites of that name, or of other parameters")


def _say_of_versions(named: Mapping[str, _Run], told: _Told) -> None:
    versions: dict[str, list[str]] = {}
    for name, run in named.items():
        if run.outcome is not None:
            versions.setdefault(_version(run.outcome), []).append(name)
    if len(versions) > 1:
        said = "; ".join(f"{version} ({_list_some(names)})" for version, names in versions.items())
        told.notes.append(f"the runs are of {len(versions)} versions of djinn-checks: {said}")


def _list_some(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES + 1 else []
    return ", ".join([*names[: _MOST_NAMES if more else None], *more])


def _version(outcome: Outcome) -> str:
    environment = outcome.environment
    version = (environment.get("packages") or {}).get("djinn-checks") or "unknown version"
    source = environment.get("source") or {}
    commit = str(source.get("commit") or "")[:12]
    return f"{version}{f' at {commit}' if commit else ''}{', changed' if source.get('dirty') else ''}"


def _make_pages(named: Mapping[str, _Run], out: Path, told: _Told) -> None:
    """Render what was renamed or has no page, the notes about planted faults, and the front page."""
    try:
        needed = [name for name, run in named.items() if run.outcome and (name != run.name or _PAGE not in run.files)]
        told.problems += render_names(out, needed)
        with contextlib.suppress(Exception):  # as after a run: each report is there without its note
            render_fault_notes(out)
        write_index(out)
    except OSError as error:
        told.problems.append(f"{out}: pages cannot be written ({error.strerror}); `djinn-checks render` makes them")
