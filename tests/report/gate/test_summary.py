"""A summary is Markdown in which what comes from outside is text, and it has a size."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from djinn_checks.outcome import Failure, Status
from djinn_checks.report.gate.reports import Report
from djinn_checks.report.gate.summary import render_summary
from tests.report.gate.reports import HOSTILE, make_reports
from tests.whole import whole


class Page(HTMLParser):
    """The tags, addresses and the text of a page."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.pieces: list[str] = []
        self.feed(MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(markdown))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def cells(markdown: str) -> Iterator[list[str]]:
    for line in markdown.splitlines():
        if line.startswith("|"):
            yield line[2:-2].split(" | ")


def test_the_verdict_comes_first_then_a_line_for_each_claim_then_what_did_not_hold() -> None:
    lines = render_summary(make_reports(), title="smoke").splitlines()
    assert lines[0] == "## 💥 ERROR: smoke (1 PASS, 1 FAIL, 1 INCONCLUSIVE, 2 ERROR)"
    text = "\n".join(lines)
    found = "does not hold: It fails the link idles: the link idles (fails)"
    assert f"| ❌ | [logits](out/logits.html) | **FAIL** | {found} | 12 s |" in text
    assert "| ✅ | [logits-ok](out/logits-ok.html) | **PASS** | fine |  |" in text
    row = "| logits | **FAIL**: It fails the link idles (fails) | 50 % | at least 90 % | the link idles |"
    assert row in text
    assert "(informs, informative) | 7 s | at most 5 s |" in text
    assert "agents: KeyError at mine/own.py:7" in text
    assert text.index("[logits]") < text.index("It fails") < text.index("<details>")


def test_what_comes_from_outside_is_no_markup_no_link_and_refers_to_nobody() -> None:
    honest = Page(render_summary(make_reports(), title="t"))
    page = Page(render_summary(make_reports(HOSTILE), title=HOSTILE))
    assert (page.tags - {"span"}, page.addresses) == (honest.tags, honest.addresses)
    assert not any("@octocat" in piece or "#1" in piece or "$x" in piece for piece in page.pieces)
    assert "@octocat #1 $x$" in "".join(page.pieces)
    assert "`x`" in "".join(page.pieces)
    widths = {len(row) for row in cells(render_summary(make_reports(HOSTILE), title="t"))}
    assert widths == {5}


def test_a_page_that_cannot_be_reached_is_named_and_not_linked() -> None:
    assert "](" not in render_summary(make_reports(), title="t", linked=False)


@pytest.mark.parametrize("most_bytes", [2_000, 20_000])
def test_a_summary_keeps_its_size_and_says_what_it_leaves_out(most_bytes: int) -> None:
    failure = Failure(type="X", message="é" * 900, traceback="<&\n" * 5_000)
    many = [
        Report(name=f"logits-{number}", outcome=whole("logits", Status.ERROR, summary="é" * 900, failure=failure))
        for number in range(60)
    ]
    text = render_summary([*make_reports(), *many], title="t", most_bytes=most_bytes)
    assert len(text.encode()) <= most_bytes
    assert "Left out for want of room: " in text
    assert " of 65 reports" in text or " of 61 traces" in text
    assert text.count("<details>") == text.count("</details>")


def test_a_suite_that_did_not_come_to_its_end_is_never_green() -> None:
    text = render_summary([Report(name="x", outcome=whole())], title="t", problem="told to stop")
    assert text.startswith("## 💥 ERROR: t (1 PASS)\n\ntold to stop\n")
    assert render_summary([], title="t").startswith("## 💥 ERROR: t (nothing was run)")
