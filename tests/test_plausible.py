"""A figure is called impossible only if no reading of it can be true, and possible only if the link carries it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_checks.cli import main
from djinn_checks.errors import ParamsError
from djinn_checks.plausible import Answer, Figure, judge_figure, parse_link, read_figure

CASES = sorted((Path(__file__).parent / "data" / "plausible").glob("*.yaml"))
ANSWERS = {"impossible": Answer.IMPOSSIBLE, "possible": Answer.POSSIBLE, "undecidable": Answer.NOT_DECIDABLE}
EXIT_CODES = {Answer.POSSIBLE: 0, Answer.IMPOSSIBLE: 1, Answer.NOT_DECIDABLE: 3}
STREAMED: dict[str, Any] = {
    "claim": "streamed",
    "weight_bytes": 6.5e9,
    "kept_bytes": 0,
    "link": "PCIe 4.0 x16",
    "seconds_per_token": 0.1127,
    "batch": 1,
    "accepted_tokens": 1,
}


def answer(**changed: Any) -> Answer:
    return judge_figure(Figure(**(STREAMED | changed))).answer


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_figures_from_public_reports_get_the_answer_that_their_name_says(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ANSWERS[path.stem.partition("-")[0]]
    assert path.read_text().startswith("# Source: ")
    assert main(["plausible", str(path)]) == EXIT_CODES[wanted]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("claim ")
    assert said[-1].startswith(f"{wanted}: ")


def test_the_arithmetic_is_printed_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plausible", str(next(path for path in CASES if "112-7" in path.stem))])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "weights    M = 6.5 GB",
        "kept       C = 0 GB",
        "per pass   (M - C) = 6.5 GB over the link",
        "link       PCIe 4.0 x16: 16 GT/s × 16 lanes × 0.9846 / 8 = B = 31.51 GB/s",
        "           of it payload in packets of 256 bytes: 29.22 GB/s",
        "limit      (M - C) / B = 6.5 GB / 31.51 GB/s = 206.3 ms a pass at the least",
        "pass       112.7 ms a token × 1 in the batch × 1 accepted = 112.7 ms",
        "implied    6.5 GB / 112.7 ms = 57.68 GB/s, 1.83 of B",
        "impossible: 1.83 times what the link can carry",
    ]


@pytest.mark.parametrize(
    ("text", "gb_per_s"),
    [
        ("PCIe 1.0 x16", 4.0),
        ("PCIe 2.0 x16", 8.0),
        ("PCIe 3.0 x16", 15.754),
        ("pcie gen4 x8", 15.754),
        ("PCIe 4.0 x16", 31.508),
        ("PCIe Gen 5 ×16", 63.015),
        ("PCIe 6.0 x16", 121.0),
    ],
)
def test_a_link_carries_what_its_lanes_and_encoding_allow(text: str, gb_per_s: float) -> None:
    link = parse_link(text)
    assert link.encoded_bytes_per_s / 1e9 == pytest.approx(gb_per_s, abs=0.001)
    assert link.payload_bytes_per_s < link.encoded_bytes_per_s


def test_the_bounds_of_pcie_5_lie_around_what_an_h200_was_measured_to_carry() -> None:
    link = parse_link("PCIe 5.0 x16")
    assert 55.4e9 < link.payload_bytes_per_s < link.encoded_bytes_per_s
    assert link.encoded_bytes_per_s > 55.4e9 * 1.0785


@pytest.mark.parametrize("unknown", ["kept_bytes", "batch", "accepted_tokens"])
def test_what_is_not_said_may_explain_a_figure_and_then_nothing_is_decided(unknown: str) -> None:
    found = judge_figure(Figure(**(STREAMED | {unknown: None})))
    assert found.answer is Answer.NOT_DECIDABLE
    assert unknown in found.lines[-1]


@pytest.mark.parametrize(
    "enough", [{"batch": 2}, {"accepted_tokens": 2.0}, {"kept_bytes": 3.3e9}, {"compression": 0.5}]
)
def test_batch_speculation_residency_and_compression_each_make_it_possible(enough: dict[str, Any]) -> None:
    assert answer(**enough) is Answer.POSSIBLE


def test_between_payload_and_lanes_it_is_not_decidable() -> None:
    assert answer(seconds_per_token=6.5 / 29.2) is Answer.POSSIBLE
    assert answer(seconds_per_token=6.5 / 30) is Answer.NOT_DECIDABLE
    assert answer(seconds_per_token=6.5 / 31.6) is Answer.IMPOSSIBLE


def test_a_measured_ceiling_is_believed_within_what_such_measurements_differ_by() -> None:
    measured = {"link": None, "ceiling_gb_per_s": 25.0}
    assert answer(**measured, seconds_per_token=6.5 / 24.9) is Answer.POSSIBLE
    assert answer(**measured, seconds_per_token=6.5 / 26) is Answer.NOT_DECIDABLE
    assert answer(**measured, seconds_per_token=6.5 / 26.3) is Answer.IMPOSSIBLE


@pytest.mark.parametrize(
    "gone", [{"weight_bytes": None, "kept_bytes": None}, {"link": None}, {"seconds_per_token": None}]
)
def test_without_weights_link_or_time_nothing_is_decided(gone: dict[str, Any]) -> None:
    found = judge_figure(Figure(**(STREAMED | gone)))
    assert found.answer is Answer.NOT_DECIDABLE
    assert "not said" in found.lines[-1]


sizes = st.floats(1e3, 1e15)
shares = st.floats(0, 1)
rates = st.floats(1e-6, 1e6)
ORDER = [Answer.POSSIBLE, Answer.NOT_DECIDABLE, Answer.IMPOSSIBLE]


@given(sizes, shares, rates, st.integers(1, 1000), st.floats(1, 100), st.floats(0.01, 1))
def test_the_same_figure_said_otherwise_gets_the_same_answer_and_faster_ones_none_milder(
    size: float, kept: float, rate: float, batch: int, accepted: float, compression: float
) -> None:
    said = {"kept_bytes": kept * size, "batch": batch, "accepted_tokens": accepted, "compression": compression}
    first = answer(weight_bytes=size, seconds_per_token=1 / rate, **said)
    faster = answer(weight_bytes=size, seconds_per_token=1 / (2 * rate), **said)
    assert ORDER.index(faster) >= ORDER.index(first)
    implied = (size - kept * size) * compression * rate / batch / accepted
    if abs(implied / parse_link("PCIe 4.0 x16").encoded_bytes_per_s - 1) > 1e-9:
        assert (first is Answer.IMPOSSIBLE) == (implied > parse_link("PCIe 4.0 x16").encoded_bytes_per_s)
        otherwise = answer(
            weight_bytes=None, parameters=size / 2, bits=16, seconds_per_token=None, tokens_per_second=rate, **said
        )
        assert (otherwise is Answer.IMPOSSIBLE) == (first is Answer.IMPOSSIBLE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claim: x\nkept_byte: 3", "kept_byte: unknown name; did you mean 'kept_bytes'?"),
        ("claim: x\nzzz: 3", "zzz: unknown name; known: claim, weight_bytes,"),
        ("kept_bytes: 0", "claim: is missing"),
        ("claim: x\nweight_bytes: 1e9", "weight_bytes: .*got '1e9'; YAML reads 1e9 as text"),
        ("claim: x\nweight_bytes: -4", "weight_bytes: .*got -4"),
        ("claim: x\nweight_bytes: .nan", "weight_bytes: .*got nan"),
        ("claim: x\nseconds_per_token: .inf", "seconds_per_token: .*got inf"),
        ("claim: x\nseconds_per_token: 0", "seconds_per_token: .*got 0"),
        ("claim: x\nbatch: 0", "batch: .*got 0"),
        ("claim: x\nbatch: true", "batch: .*got True"),
        ("claim: x\naccepted_tokens: 0.5", "accepted_tokens: .*got 0.5"),
        ("claim: x\ncompression: 1.5", "compression: .*got 1.5"),
        ("claim: x\nparameters: 7", "parameters, bits: expected both or neither"),
        ("claim: x\nweight_bytes: 1\nparameters: 7\nbits: 4", "say the same thing: expected one of them, got both"),
        ("claim: x\nlink: PCIe 4.0 x16\nceiling_gb_per_s: 20", "link and ceiling_gb_per_s say the same thing"),
        (
            "claim: x\nseconds_per_token: 1\ntokens_per_second: 1",
            "seconds_per_token and tokens_per_second say",
        ),
        ("claim: x\nweight_bytes: 5\nkept_bytes: 6", "kept_bytes: expected at most the weights, 5, got 6"),
        ("claim: x\nlink: PCIe 4.0 x5", "link: expected .*got 'PCIe 4.0 x5'; for another link give ceiling_gb_per_s"),
        ("claim: x\nlink: PCIe 9.0 x16", "link: expected .*got 'PCIe 9.0 x16'"),
        ("claim: x\nlink: NVLink-C2C", "link: expected .*got 'NVLink-C2C'"),
        ("- a list", "expected names and values .*got list"),
        ("", "expected names and values .*got NoneType"),
        ("claim: [", "cannot be read as YAML"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_nothing_is_judged(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "figure.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=rf"(?s)figure\.yaml: .*{said}"):
        read_figure(path)
    assert main(["plausible", str(path)]) == 2
    assert re.search(r"^djinn-checks: .*figure\.yaml", capsys.readouterr().err)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: cannot be read"):
        read_figure(tmp_path / "nowhere.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParamsError, match=r"bytes\.yaml: cannot be read"):
        read_figure(tmp_path / "bytes.yaml")


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[1]
    page = (root / "docs" / "plausible.md").read_text()
    shown = re.findall(r"\$ djinn-checks plausible (\S+)\n(.*?)```", page, flags=re.DOTALL)
    assert len(shown) == 2
    for path, printed in shown:
        main(["plausible", str(root / path)])
        assert capsys.readouterr().out == printed
    for path in CASES:
        assert f"| {read_figure(path).claim} | {judge_figure(read_figure(path)).answer} |" in page
