"""A finished suite put into one zip: the same files give the same bytes, wherever and whenever it is made.

The folder itself is left as it is. What names hosts or users is said with its place, and nothing is written, unless
stand-ins were asked for: then they take its place in a copy, whose pages are rendered from the outcomes again. The
copy is looked through once more before it is packed.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from djinn_checks.bounded import MOST_BYTES, read_bytes, read_gzip_text
from djinn_checks.bundle.appendix import Facts, write_appendix
from djinn_checks.bundle.names import Named, Names, list_words, look_around
from djinn_checks.errors import RunnerError
from djinn_checks.report.svg import replace_addresses
from djinn_checks.suite.files import list_names, read_finished
from djinn_checks.suite.folder import render_folder
from djinn_checks.suite.manifest import MANIFEST, SIGNATURE, walk, write_manifest

APPENDIX, LICENCE = "appendix.tex", "LICENSE"
_DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file in the zip: the earliest that the format has."""
_MOST_UNPACKED = 2**29
_PICTURE = re.compile(r"data:[a-z]+/[a-z+]+;base64,([A-Za-z0-9+/=]+)")
"""As a notebook from elsewhere may hold it."""


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What became of a bundle."""

    named: tuple[Named, ...]
    """What names a host or a user; of these there is no bundle."""
    files: tuple[str, ...] = ()
    """In the zip."""
    stand_ins: int = 0
    """How many different things were replaced."""


def bundle_folder(
    folder: Path, out: Path, *, scrub: bool, words: Iterable[str] = (), licence: Path | None = None, url: str = ""
) -> Bundled:
    """Pack a folder, with a licence, an appendix and a manifest of it all.

    Args:
        scrub: put stand-ins in place of what names hosts or users; False: write nothing if there is any.
        words: names to look for beside those that are known by their shape.
        licence: a file; None: the folder's own, or this package's.
        url: where the archive will be.

    Raises:
        RunnerError: the folder holds no outcome, one that cannot be read, or a link; or the zip cannot be written.
    """
    finished = read_finished(folder)
    if finished.unreadable or not finished.outcomes:
        why = next(iter(finished.unreadable.values()), "expected <check>.outcome.json files, found none")
        raise RunnerError(f"{folder}: {why}; a bundle is made of a whole suite, see `djinn-checks verify`")
    files, odd = walk(folder)
    if odd:
        raise RunnerError(f"{folder}: {odd[0]} is a link or a special file, which no archive takes; remove it")
    if folder.resolve() in out.resolve().parents:
        raise RunnerError(f"{out}: lies in the folder that is packed; choose another with --out")
    names = Names(given=list_words(words), machine=look_around())
    try:
        with tempfile.TemporaryDirectory(prefix="djinn-checks-bundle-") as place:
            copy = Path(place) / names.replace(folder.resolve().name) if scrub else Path(place) / folder.resolve().name
            for name in files:
                if name not in (MANIFEST, SIGNATURE):
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / name, copy / name)
            return _pack(copy, out, names, licence, url, scrub=scrub)
    except OSError as error:
        where = error.filename or folder
        raise RunnerError(
            f"{where}: cannot be read or written ({error.strerror}); choose another with --out"
        ) from error


def _pack(copy: Path, out: Path, names: Names, licence: Path | None, url: str, *, scrub: bool) -> Bundled:
    for _, text in _read_all(copy):
        names.learn(text)
    if scrub:
        _scrub(copy, names)
        if list_names(copy):
            render_folder(copy)
    told = "as LICENSE says"
    if licence is not None or not (copy / LICENCE).is_file():
        (copy / LICENCE).write_bytes(_read_licence(licence))
        told = told if licence is not None else "Apache-2.0, as LICENSE says"
    outcomes = read_finished(copy).outcomes
    nbytes = sum((copy / name).stat().st_size for name in walk(copy)[0])
    facts = Facts(title=copy.name, nbytes=nbytes, licence=told, url=url)
    (copy / APPENDIX).write_text(write_appendix(outcomes, facts), encoding="ascii")
    named = tuple(_find_all(copy, names))
    if named:
        return Bundled(named=named)
    write_manifest(copy)
    return Bundled(named=(), files=_zip(copy, out), stand_ins=len(names.stand_ins))


def _zip(copy: Path, out: Path) -> tuple[str, ...]:
    files = tuple(walk(copy)[0])
    part = out.with_name(f".{out.name}.part")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for name in files:
                entry = zipfile.ZipInfo(f"{copy.name}/{name}", _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3  # as on Unix, whose permissions follow
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, (copy / name).read_bytes())
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return files


def _scrub(copy: Path, names: Names) -> None:
    """Put stand-ins into every text of the copy, and into the names of its files."""
    for name in walk(copy)[0]:
        file = copy / name
        text = _read_text(file)
        again = names.replace(text) if text is not None else None
        if again is not None and again != text:
            content = again.encode()
            file.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        other = copy / names.replace(name)
        if other != file:
            other.parent.mkdir(parents=True, exist_ok=True)
            file.rename(other)


def _find_all(copy: Path, names: Names) -> Iterator[Named]:
    yield from names.find(copy.name, "the folder's name")
    for name, text in _read_all(copy):
        yield from names.find(name, "the name of a file")
        yield from names.find(text, name)


def _read_all(copy: Path) -> Iterator[tuple[str, str]]:
    """Return every text in a folder, those of pictures within pages as well."""
    for name in walk(copy)[0]:
        if name in (LICENCE, MANIFEST):
            continue
        text = _read_text(copy / name)
        if text is None:
            yield name, read_bytes(copy / name).decode("latin-1")
            continue
        words, drawn = replace_addresses(text, "data:")
        yield name, _PICTURE.sub("data:", words)
        yield from ((f"{name}, drawing {number}", svg) for number, svg in enumerate(drawn, 1))
        for number, encoded in enumerate(_PICTURE.findall(words), 1):
            try:
                yield f"{name}, picture {number}", base64.b64decode(encoded).decode("utf-8", "ignore")
            except (binascii.Error, ValueError):
                continue


def _read_text(file: Path) -> str | None:
    """Return what a file says as text, unpacked if it is packed; None if it is no text."""
    try:
        if file.name.endswith(".gz"):
            return read_gzip_text(file, _MOST_UNPACKED)
        return read_bytes(file, MOST_BYTES).decode("utf-8")
    except (UnicodeDecodeError, EOFError):
        return None


def _read_licence(licence: Path | None) -> bytes:
    if licence is not None:
        try:
            return read_bytes(licence)
        except OSError as error:
            why = f"{licence}: cannot be read ({error.strerror}); choose another with --licence"
            raise RunnerError(why) from error
    try:
        text = distribution("djinn-checks").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    beside = Path(__file__).parents[2] / LICENCE
    if text is None and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    if text is None:
        raise RunnerError(
            "licence: none lies in the folder, and this package's is not installed; name one by --licence"
        )
    return text.encode()
