"""A shard: a part of a suite's jobs, the same on every machine, and what a folder says of the shards that ran into it.

Job k of the suite, in the order of the names, goes to shard k mod n: the shards' sizes differ by one at most, and the
jobs of one check, which are alike in what they take, spread over all of them. How long a job takes is not known before
it ran, so equal times are not promised.

`shards.json` in the folder names all jobs of the suite with their shards, so that `merge` can say which shard is
missing, and which job of one that ran left nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from djinn_checks.bounded import parse_json, read_text
from djinn_checks.errors import RunnerError
from djinn_checks.outcome import write_atomically
from djinn_checks.suite.execution import Job
from djinn_checks.units import format_count

SHARDS = "shards.json"
SCHEMA = "djinn-checks/shards/1"
_PLACES = ("device",)
"""Parameters that say where a job runs, and not what it does."""
_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class Split:
    """A suite that was cut into shards, and those of them that ran into a folder. Shards count from 1."""

    suite: str
    of: int
    jobs: tuple[tuple[str, int], ...]
    """Every job of the suite, with its shard."""
    digest: str
    """Of the jobs' parameters, but for the device: shards of one suite have the same."""
    ran: tuple[int, ...]

    @property
    def missing(self) -> list[int]:
        """The shards that did not run."""
        return [number for number in range(1, self.of + 1) if number not in self.ran]

    @property
    def expected(self) -> list[str]:
        """The names of the jobs of the shards that ran."""
        return [name for name, number in self.jobs if number in self.ran]

    def is_same(self, other: Split) -> bool:
        """Tell whether both are shards of the same cut of the same suite."""
        return replace(self, ran=()) == replace(other, ran=())


def read_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of `i/n`.

    Raises:
        RunnerError: it is no such text, or i is not between 1 and n.
    """
    number, slash, of = text.partition("/")
    whole = slash and all(part.isascii() and part.isdecimal() and len(part) <= 6 for part in (number, of))
    if not whole or not 1 <= int(number) <= int(of):
        raise RunnerError(f"--shard {text}: expected i/n with 1 <= i <= n, as in --shard 1/2")
    return int(number), int(of)


def choose_shard(suite: str, jobs: Sequence[Job], shard: tuple[int, int]) -> tuple[list[Job], Split]:
    """Return the jobs of a shard, in their order, and what is written of it.

    Args:
        suite: its name.
        jobs: all of the suite.
        shard: (i, n).

    Raises:
        RunnerError: there are more shards than jobs.
    """
    number, of = shard
    if of > len(jobs):
        raise RunnerError(
            f"--shard {number}/{of}: {suite} has {format_count(len(jobs), 'job')}, and a shard needs one; ask for fewer"
        )
    ordered = sorted(jobs, key=lambda job: job.name)
    places = {job.name: position % of + 1 for position, job in enumerate(ordered)}
    asked = [(job.name, {k: v for k, v in job.resolved.items() if k not in _PLACES}) for job in ordered]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:_DIGITS]
    split = Split(suite=suite, of=of, jobs=tuple(sorted(places.items())), digest=digest, ran=(number,))
    return [job for job in jobs if places[job.name] == number], split


def add_split(out: Path, split: Split) -> None:
    """Write that a shard runs into a folder; another cut of the same suite that the folder tells of is forgotten."""
    others = [found for found in read_splits(out) if found.suite != split.suite or found.is_same(split)]
    write_splits(out, unite([*others, split]))


def unite(splits: Iterable[Split]) -> list[Split]:
    """Return each cut of each suite once, with all of its shards that ran."""
    united: list[Split] = []
    for split in splits:
        at = next((place for place, found in enumerate(united) if found.is_same(split)), None)
        if at is None:
            united.append(split)
        else:
            united[at] = replace(split, ran=tuple(sorted({*united[at].ran, *split.ran})))
    return united


def write_splits(out: Path, splits: Sequence[Split]) -> None:
    """Write `shards.json`."""
    rows = [{"suite": split.suite, "of": split.of, "ran": list(split.ran), "digest": split.digest,
             "jobs": dict(split.jobs)} for split in splits]  # fmt: skip
    write_atomically(out / SHARDS, json.dumps({"schema": SCHEMA, "suites": rows}, indent=1) + "\n")


def read_splits(folder: Path) -> list[Split]:
    """Return what a folder says of shards; nothing if no shard ran into it.

    Raises:
        RunnerError: the file is there and cannot be read.
    """
    file = folder / SHARDS
    try:
        data = parse_json(read_text(file))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RunnerError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r:.60}")
        return [_read_split(row) for row in data["suites"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{file}: expected schema {SCHEMA!r} ({type(error).__name__}: {error}); was it edited?"
        raise RunnerError(message) from error


def _read_split(row: Any) -> Split:
    jobs = tuple(sorted((str(name), _whole(number)) for name, number in row["jobs"].items()))
    ran = tuple(sorted({_whole(number) for number in row["ran"]}))
    split = Split(suite=str(row["suite"]), of=_whole(row["of"]), jobs=jobs, digest=str(row["digest"]), ran=ran)
    wrong = [number for number in (*ran, *(number for _, number in jobs)) if number > split.of]
    if wrong or split.of > len(jobs):
        raise ValueError(f"{split.of} shards, and one of them is number {max(wrong, default=split.of)}")
    return split


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number, more than 0, got {value!r:.40}")
    return value
