"""A whole folder held against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from djinn_checks.errors import DjinnChecksError, RunnerError
from djinn_checks.outcome import Outcome, Status
from djinn_checks.outcome.fields import make_encodable
from djinn_checks.report.suite.hosts import split_host
from djinn_checks.report.suite.no_suite import say_no_suite
from djinn_checks.suite.files import OUTCOME, FinishedSuite, is_file_of, list_names
from djinn_checks.suite.folder import FRONT
from djinn_checks.suite.manifest import MANIFEST, SIGNATURE, list_changes, read_manifest, walk
from djinn_checks.suite.shards import SHARDS, read_splits
from djinn_checks.verify.agents import verify_agents
from djinn_checks.verify.beside import verify_frames, verify_notebook, verify_params
from djinn_checks.verify.crate import read_title, verify_crate
from djinn_checks.verify.faults import verify_faults
from djinn_checks.verify.finding import Finding, agrees, believed, disagrees, unreadable
from djinn_checks.verify.host import verify_host
from djinn_checks.verify.logits import verify_logits
from djinn_checks.verify.outcomes import verify_outcome
from djinn_checks.verify.pages import verify_front, verify_pages
from djinn_checks.verify.pcie import verify_pcie
from djinn_checks.verify.signature import verify_signature

Rows = Callable[[Path, str, Outcome, Path | None], Iterator[Finding]]
_ROWS: dict[str, Rows] = {
    "pcie": verify_pcie,
    "logits": verify_logits,
    "agents": verify_agents,
    "host": verify_host,
    "faults": verify_faults,
}


def verify_folder(
    folder: Path, *, traces: Path | None = None, pages: bool = True, signers: Path | None = None
) -> Iterator[Finding]:
    """Derive again all that a folder says, and tell what of it agrees, what does not and what has to be believed.

    Args:
        traces: where the recordings lie that runs replayed.
        pages: whether pages are rendered anew, which takes most of the time.
        signers: whose signatures count, as ssh's file of allowed signers; None: a signature need not be there.

    Raises:
        RunnerError: the folder holds no outcome.
    """
    names = list_names(folder)
    if not names:
        raise RunnerError(say_no_suite(folder))
    files, odd = walk(folder)
    yield from (disagrees(name, "", "is a link or a special file, and no part of a folder") for name in odd)
    signed = verify_signature(folder, signers)
    if signed is not None:
        yield signed
    yield from _verify_digests(folder, names, files)
    outcomes: dict[str, Outcome] = {}
    broken: dict[str, str] = {}
    yield from _verify_shards(folder, names)
    for name in names:
        if name != make_encodable(name):
            broken[make_encodable(name)] = "its name is not UTF-8"
            yield unreadable(f"{make_encodable(name)}{OUTCOME}", "", "its name is not UTF-8; rename it")
            continue
        outcome, found = verify_outcome(folder / f"{name}{OUTCOME}")
        yield from found
        if outcome is None:
            broken[name] = found[0].why
            continue
        outcomes[name] = outcome
        yield from _verify_run(folder, name, outcome, traces)
    if pages:
        yield from _verify_pages(folder, FinishedSuite(outcomes=outcomes, unreadable=broken))
    else:
        yield believed("*.html", "pages", "they were not rendered anew, as was asked for")


def _verify_shards(folder: Path, names: list[str]) -> Iterator[Finding]:
    """Read which shards of a suite ran into the folder, and name the jobs of theirs that left nothing."""
    try:
        splits = read_splits(folder)
    except RunnerError as error:
        yield unreadable(SHARDS, "shards", str(error))
        return
    runs = {split_host(name).run for name in names} | set(names)
    for split in splits:
        lost = [name for name in split.expected if name not in runs]
        if lost:
            yield disagrees(SHARDS, split.suite, f"a shard ran, and there is no outcome of {', '.join(lost)}"[:300])
        else:
            ran = ", ".join(map(str, split.ran))
            yield agrees(SHARDS, split.suite, f"each job of shard {ran} of {split.of} left an outcome")


def _verify_run(folder: Path, name: str, outcome: Outcome, traces: Path | None) -> Iterator[Finding]:
    yield from verify_params(folder, name, outcome)
    yield from verify_notebook(folder, name, outcome)
    yield from verify_frames(folder, name, outcome)
    derive = _ROWS.get(outcome.check)
    if derive is not None and outcome.status is not Status.ERROR:
        try:
            yield from list(derive(folder, name, outcome, traces))
        except (
            KeyError,
            TypeError,
            ValueError,
            ArithmeticError,
            AttributeError,
            IndexError,
            DjinnChecksError,
        ) as error:
            why = f"its measurements cannot be those of a run ({type(error).__name__}: {error})"
            yield unreadable(f"{name}{OUTCOME}", "measurements", why[:300])


def _verify_pages(folder: Path, finished: FinishedSuite) -> Iterator[Finding]:
    title = read_title(folder)
    titles = list(dict.fromkeys(filter(None, (title, folder.resolve().name))))
    yield from verify_pages(folder, finished.outcomes)
    if finished.unreadable:
        why = "an outcome disagrees with itself or cannot be read, and what is said of all of them is not made anew"
        yield from (believed(name, "page", why) for name in FRONT if (folder / name).exists())
        return
    if any((folder / name).exists() for name in FRONT):
        yield from verify_front(folder, finished, titles)
    yield from verify_crate(folder, finished, titles[0])


def _verify_digests(folder: Path, names: list[str], files: list[str]) -> Iterator[Finding]:
    """Hold every file against the manifest, and name those that no digest speaks for."""
    ours = {file for file in files if _is_ours(file, names)}
    if not (folder / MANIFEST).exists():
        yield believed(
            MANIFEST, "digests", f"there is no {MANIFEST}, so nothing tells whether a file is missing or new"
        )
        yield from (believed(file, "file", "it is none that a run leaves, and nothing is derived from it")
                    for file in files if file not in ours)  # fmt: skip
        return
    try:
        told = read_manifest(folder)
    except (OSError, ValueError) as error:
        yield unreadable(MANIFEST, "digests", str(error))
        return
    changed = dict(list_changes(folder, told))
    yield from (disagrees(name, "digest", why) for name, why in changed.items())
    good = len(told) - len(changed)
    if good:
        yield agrees(MANIFEST, "digests", f"{good:,} of {len(told):,} files have theirs")
    signed = (folder / SIGNATURE).exists()
    for file in files:
        if file in told or file in (MANIFEST, SIGNATURE):
            continue
        if signed or file in ours:
            yield disagrees(file, "file", f"is not in {MANIFEST}: it was added, or changed its name")
        else:
            yield believed(file, "file", f"it is none that a run leaves, and {MANIFEST} does not list it")


def _is_ours(file: str, names: list[str]) -> bool:
    return file in (*FRONT, SHARDS, MANIFEST, SIGNATURE) or any(is_file_of(name, file) for name in names)
