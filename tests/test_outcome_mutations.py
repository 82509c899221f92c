"""Whatever stands in an outcome's file, reading it gives an outcome or one sentence: no traceback, no hang."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from djinn_checks.bounded import MOST_BYTES, parse_json, read_gzip_text, read_text, refuse_bulk
from djinn_checks.errors import IncompleteError, OutcomeError
from djinn_checks.measurements.pcie import PcieMeasurements
from djinn_checks.measurements.shape import ShapeError, check_shape
from djinn_checks.outcome import Outcome
from djinn_checks.outcome.fields import MOST_CRITERIA
from djinn_checks.report.frames import list_frames
from djinn_checks.report.suite.compare_page import render_comparison
from djinn_checks.report.suite.results import render_results
from djinn_checks.report.verdict import render_context, render_verdict
from djinn_checks.suite.files import read_finished
from djinn_checks.suite.folder import render_folder, write_index
from tests.whole import whole

ROOT = Path(__file__).parents[1]
DATA = ROOT / "reports" / "h200-2026-11-27"
PLACES = [
    *((name,) for name in ("schema", "check", "status", "summary", "criteria", "measurements", "params", "environment",
                           "timings", "failure", "started_at")),
    *(("criteria", 0, name) for name in ("name", "title", "observed", "comparison", "threshold", "unit", "status",
                                         "evidence", "required", "reason")),
    ("criteria", 0),
    ("timings", "run_s"),
    ("timings", "total_s"),
    ("params", "system"),
    ("environment", "gpu"),
    ("environment", "cpu"),
    ("environment", "packages"),
    ("environment", "source"),
    ("measurements", "link"),
    ("measurements", "windows"),
    ("measurements", "windows", "rx_mb_per_s"),
    ("measurements", "limit"),
    ("measurements", "bytes", "claimed"),
    ("measurements", "zoom", "timeline"),
]  # fmt: skip
"""Where a value is put, in an outcome of the PCIe check, which has the most to read."""


def nested(depth: int) -> str:
    return depth * "[" + depth * "]"


VALUES = {
    "null": "null",
    "a number": "-1.5",
    "a text": '"<b>\\u001b[2J \\u202e"',
    "NaN as text": '"NaN"',
    "a huge number": "1" + 400 * "0",
    "a surrogate": '"\\ud800"',
    "deep nesting": nested(200),
}
"""As JSON. Together with the places: 245 files; seven more are no JSON at all."""
NO_JSON = ["", "{", "NaN", "1e999", "9" * 5000, nested(100_000), '{"schema": 1, "schema": 2}']


def put(data: Any, place: tuple[Any, ...], mark: str) -> Any:
    """Return a copy of nested data with a mark at a place."""
    first, *rest = place
    copy: Any = list(data) if isinstance(data, list) else dict(data)
    copy[first] = put(data[first], tuple(rest), mark) if rest else mark
    return copy


def mutations() -> Iterator[tuple[str, str]]:
    whole_file = json.loads((DATA / "pcie-ring.outcome.json").read_text(encoding="utf-8"))
    for place in PLACES:
        marked = json.dumps(put(whole_file, place, "@@mark@@"))
        for name, value in VALUES.items():
            yield f"{'.'.join(map(str, place))} is {name}", marked.replace('"@@mark@@"', value)
    yield from (("no JSON", text) for text in NO_JSON)


def use(outcome: Outcome) -> None:
    """Make what is made of every outcome of a folder."""
    suite = {"pcie": outcome}
    assert render_verdict(outcome) + render_context(outcome)
    assert dict(list_frames(outcome)), "each of them is made"
    json.dumps(render_results("a", suite)).encode()
    render_comparison(("a", "b"), suite, suite).encode()


def load(file: Path) -> tuple[Outcome | None, str]:
    """Return an outcome, or the sentence with which it is refused."""
    try:
        return Outcome.load(file), ""
    except OutcomeError as error:
        return None, str(error)


def test_no_mutation_of_an_outcome_is_a_traceback_or_hangs(tmp_path: Path) -> None:
    file, counts = tmp_path / "pcie.outcome.json", {"refused": 0, "used": 0}
    whole("logits").save(tmp_path / "logits.outcome.json")
    found = list(mutations())
    assert len(found) == len(PLACES) * len(VALUES) + len(NO_JSON) == 252
    started = time.process_time()
    for what, text in found:
        file.write_text(text)
        outcome, said = load(file)
        counts["refused" if outcome is None else "used"] += 1
        if outcome is None:
            assert str(file) in said, f"{what}: the file is named"
            assert 20 < len(said.encode()) < 2_000, what
        else:
            use(outcome)
    assert counts["refused"] > 150, "most of them"
    assert counts["used"] > 10, "and what can be read is used"
    assert time.process_time() - started < 60


def test_one_bad_file_stops_nothing_for_the_others(tmp_path: Path) -> None:
    whole("logits").save(tmp_path / "logits.outcome.json")
    (tmp_path / "pcie-deep.outcome.json").write_text(nested(100_000))
    (tmp_path / "pcie-null.outcome.json").write_text("null")
    os.mkfifo(tmp_path / "pcie-pipe.outcome.json")
    (tmp_path / "pcie-zero.outcome.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "logits.ipynb")
    with pytest.raises(IncompleteError) as caught:
        render_folder(tmp_path)
    for name in ("deep", "null", "pipe", "zero"):
        assert f"pcie-{name}.outcome.json cannot be read" in str(caught.value)
    assert (tmp_path / "logits.html").is_file()
    assert "4 outcomes cannot be read" in (tmp_path / "index.html").read_text()


def test_an_outcome_that_no_front_page_can_show_has_a_line_and_the_others_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from djinn_checks.suite import folder as folders

    def picky(title: str, outcomes: dict[str, Outcome], *others: Any) -> str:
        if "pcie-odd" in outcomes:
            raise KeyError("windows")
        return real(title, outcomes, *others)

    real = folders.render_index
    whole("logits").save(tmp_path / "logits.outcome.json")
    whole("pcie").save(tmp_path / "pcie-odd.outcome.json")
    monkeypatch.setattr(folders, "render_index", picky)
    page = write_index(tmp_path).read_text()
    assert "pcie-odd.outcome.json cannot be shown (KeyError: &#x27;windows&#x27;)" in page
    assert "1 outcome cannot be read" in page


def test_two_hundred_thousand_rows_are_refused_at_once(tmp_path: Path) -> None:
    rows = ", ".join(["{}"] * 200_000)
    text = json.dumps(whole("another").to_dict() | {"criteria": "@@rows@@"}).replace('"@@rows@@"', f"[{rows}]")
    (tmp_path / "a.outcome.json").write_text(text)
    assert f"at most {MOST_CRITERIA:,} rows, got 200,000" in read_finished(tmp_path).unreadable["a"]


def test_a_file_that_is_too_long_is_refused_without_being_read(tmp_path: Path) -> None:
    file = tmp_path / "a.outcome.json"
    with file.open("wb") as long:
        long.truncate(MOST_BYTES + 1)  # a hole, which takes no room
    with pytest.raises(OutcomeError, match="cannot be read \\(it is longer than"):
        Outcome.load(file)


def test_only_regular_files_are_read_and_none_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="it is no regular file"):
            read_text(place)
    (tmp_path / "file").write_text("a\r\nb")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "a\nb"


def test_a_gzip_unpacks_to_its_limit_and_no_further(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(OSError, match="it unpacks to more than 1,000,000 bytes"):
        read_gzip_text(tmp_path / "bomb.gz", 1_000_000)
    assert len(read_gzip_text(tmp_path / "bomb.gz", 10_000_000)) == 10_000_000
    broken = bytearray(gzip.compress(os.urandom(10_000)))
    broken[40:60] = bytes(20)
    (tmp_path / "broken.gz").write_bytes(bytes(broken))
    with pytest.raises((OSError, EOFError, UnicodeDecodeError)):
        read_gzip_text(tmp_path / "broken.gz", 10_000_000)


@pytest.mark.parametrize("text", [*NO_JSON[:6], '{"a": 1, "a": 2}', '{"a": -1e400}'])
def test_json_has_finite_numbers_each_name_once_and_an_end(text: str) -> None:
    with pytest.raises(ValueError, match="nested|twice|range|JSON|Expecting|Exceeds"):
        parse_json(text)


def test_aliases_count_as_what_they_stand_for() -> None:
    bomb: Any = "x"
    for _ in range(40):
        bomb = [bomb, bomb]
    with pytest.raises(ValueError, match="more than"):
        refuse_bulk(bomb)
    refuse_bulk({"a": [1, 2, {"b": None}]})


LIMIT = ("needed_bytes", "seconds", "ratio", "streamed_of_ceiling")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"windows": 1}, "windows: expected a table of names, got int"),
        ({"windows": {"window_s": 1.0}}, "windows.rx_mb_per_s: is missing"),
        ({"preflight": {}}, "preflight: expected a list, got dict"),
        ({"preflight": [None]}, r"preflight\[\]: expected a table of names, got null"),
        (
            {"limit": dict.fromkeys(("needed_bytes", "seconds", "ratio", "streamed_of_ceiling"), "1")},
            "expected a number",
        ),
    ],
)
def test_measurements_are_of_their_shape(found: Any, said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        check_shape(found, PcieMeasurements, "measurements", partly=True)
    sound = {"limit": dict.fromkeys(LIMIT, "NaN"), "more": 1}
    check_shape(sound, PcieMeasurements, "measurements", partly=True)
