"""The folder's RO-Crate: the files that it names, their sizes, and the whole of it made anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from djinn_checks.bounded import parse_json, read_text
from djinn_checks.report.suite.crate import FILE_NAME
from djinn_checks.suite.files import FinishedSuite
from djinn_checks.suite.folder import describe_pages
from djinn_checks.suite.manifest import is_outside
from djinn_checks.verify.finding import Finding, agrees, disagrees, unreadable

_NAME = "djinn-checks: "


def read_title(folder: Path) -> str:
    """Return the title that the crate gives the folder, which may have another name elsewhere; empty if none."""
    try:
        entities = _read(folder)
    except (OSError, ValueError):
        return ""
    name = entities.get("./", {}).get("name")
    return name.removeprefix(_NAME) if isinstance(name, str) else ""


def verify_crate(folder: Path, finished: FinishedSuite, title: str) -> Iterator[Finding]:
    """Hold a crate against the files of the folder, and against the one that is made of the outcomes again."""
    if not (folder / FILE_NAME).exists():
        return
    try:
        entities = _read(folder)
    except (OSError, ValueError) as error:
        yield unreadable(FILE_NAME, "crate", str(error))
        return
    files = [entity for entity in entities.values() if "File" in _kinds(entity)]
    problems = [finding for entity in files if (finding := _hold_file(folder, entity))]
    yield from problems
    if not problems:
        yield agrees(FILE_NAME, "files", f"{len(files)} files are there, each of the size that it states")
    made = parse_json(describe_pages(folder, finished, title)[FILE_NAME])
    again = {str(entity["@id"]): entity for entity in made["@graph"]}
    different = [name for name in [*entities, *again] if entities.get(name) != again.get(name)]
    if not different:
        yield agrees(FILE_NAME, "crate", "a new description of the outcomes and files")
    for name in dict.fromkeys(different[:3]):
        yield disagrees(FILE_NAME, name[:80], _tell(entities.get(name), again.get(name)))


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the crate's entities by their names.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no RO-Crate, or two of its entities have one name.
    """
    data = parse_json(read_text(folder / FILE_NAME))
    graph = data.get("@graph") if isinstance(data, dict) else None
    if not isinstance(graph, list) or not all(
        isinstance(one, dict) and isinstance(one.get("@id"), str) for one in graph
    ):
        raise ValueError("it is no RO-Crate: it has no @graph of entities with an @id each")
    entities = {one["@id"]: one for one in graph}
    if len(entities) < len(graph):
        raise ValueError("two entities of its @graph have the same @id")
    return entities


def _kinds(entity: dict[str, Any]) -> list[Any]:
    kind = entity.get("@type")
    return kind if isinstance(kind, list) else [kind]


def _hold_file(folder: Path, entity: dict[str, Any]) -> Finding | None:
    name = unquote(entity["@id"])
    if is_outside(name):
        return disagrees(FILE_NAME, name[:80], "it leads out of the folder")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return disagrees(FILE_NAME, name[:80], "there is no such file in the folder")
    size, told = path.stat().st_size, entity.get("contentSize")
    if told is not None and str(told) != str(size):
        return disagrees(FILE_NAME, name[:80], f"says {told} bytes, and the file has {size}")
    return None


def _tell(told: dict[str, Any] | None, made: dict[str, Any] | None) -> str:
    if told is None:
        return "is missing, and a new description has it"
    if made is None:
        return "is not in a new description of the outcomes"
    key = next(key for key in [*told, *made] if told.get(key) != made.get(key))
    return f"{key} is {told.get(key)!r:.80}, and in a new description {made.get(key)!r:.80}"
