"""A suite as a Markdown summary of a pull request: the verdict first, a line for each claim, then what did not hold.

What comes from a system under check is text and nothing else: no markup, no link, nobody is mentioned by it and no
issue is referred to. A summary has a size that a comment may have; what is left out for it is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from urllib.parse import quote

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.gate.reports import Report, ask, clip, decide_all, explain, list_unmet, see
from djinn_checks.report.suite.markdown import draw_row, draw_table, plain
from djinn_checks.report.summary import tell
from djinn_checks.units import format_seconds
from djinn_checks.visible import make_visible

MOST_BYTES = 60_000
"""Of a summary. A comment on GitHub has at most 65,536 characters, a step's summary 1 MiB."""
_ICONS = {
    Status.ERROR: "💥", Status.FAIL: "❌", Status.INCONCLUSIVE: "❔", Status.PASS: "✅", Status.SKIP: "➖",
}  # fmt: skip
"""Of each status; the worst first, as a summary tells them."""
_LONGEST, _LONGEST_NAME, _LONGEST_TRACE = 400, 120, 3_000
"""Characters of a cell, of a name, and of a trace's end."""
_REFERS = re.compile(r"[@#]")
_MATHS = "$"


def render_summary(
    reports: Sequence[Report], *, title: str, linked: bool = True, most_bytes: int = MOST_BYTES, problem: str = ""
) -> str:
    """Return the Markdown.

    Args:
        title: what was run.
        linked: whether the pages can be reached from where the text is read; their paths are told otherwise.
        most_bytes: of UTF-8, at least 2,000.
        problem: why the suite did not come to its end; empty if it did.
    """
    head = [f"## {_head(reports, title, problem)}", ""]
    head += [f"{_text(problem)}", ""] if problem else []
    parts = _Parts(most_bytes - 200, head)  # what is left out is said in the rest
    worst_first = sorted(reports, key=lambda report: list(_ICONS).index(report.status))
    claims = [_claim(report, linked) for report in worst_first]
    parts.add_table(("", "Report", "Verdict", "What was found", "Time"), claims, "reports")
    unmet = [
        row for report in reports if report.outcome and not report.rival for row in _unmet(report.name, report.outcome)
    ]
    parts.add_table(("Report", "What did not hold", "Observed", "Asked for", "Why"), unmet, "rows that do not hold")
    parts.add_blocks([_trace(report.name, report.outcome) for report in reports if report.outcome], "traces")
    return parts.join()


class _Parts:
    """Lines that have room, and how much of what is left out."""

    def __init__(self, most_bytes: int, lines: list[str]) -> None:
        self._lines, self._cut = lines, []  # type: list[str], list[str]
        self._left = most_bytes - sum(_size(line) for line in lines)

    def add_table(self, columns: Sequence[str], rows: Sequence[str], what: str) -> None:
        """Add a table, or nothing if it has no rows."""
        if rows:
            self._add([draw_table(columns, ()), *rows], what, least=1)
            self._lines.append("")

    def add_blocks(self, blocks: Sequence[str], what: str) -> None:
        """Add blocks that are not empty."""
        self._add([block for block in blocks if block], what)

    def _add(self, pieces: Sequence[str], what: str, least: int = 0) -> None:
        kept = 0
        for piece in pieces:
            if _size(piece) > self._left:
                break
            self._lines.append(piece)
            self._left -= _size(piece)
            kept += 1
        if kept < len(pieces):
            total = len(pieces) - least
            self._cut.append(f"{len(pieces) - max(kept, least):,} of {total:,} {what}")

    def join(self) -> str:
        cut = ["", f"Left out for want of room: {', '.join(self._cut)}. The reports have all."] if self._cut else []
        return "\n".join([*self._lines, *cut]).rstrip("\n") + "\n"


def _size(line: str) -> int:
    return len(line.encode("utf-8", "backslashreplace")) + 2


def _head(reports: Sequence[Report], title: str, problem: str) -> str:
    status = Status.ERROR if problem or not reports else decide_all(reports)
    counts = [(sum(report.status is one for report in reports), one) for one in Status]
    tally = ", ".join(f"{count} {one}" for count, one in counts if count) or "nothing was run"
    return f"{_ICONS[status]} {status}: {_text(title, _LONGEST_NAME)} ({tally})"


def _claim(report: Report, linked: bool) -> str:
    verdict = f"**{report.status}**{', of another system' if report.rival else ''}"
    return draw_row((_ICONS[report.status], _page(report, linked), verdict, _said(report), _time(report)))


def _time(report: Report) -> str:
    return "" if report.seconds is None else format_seconds(report.seconds)


def _page(report: Report, linked: bool) -> str:
    name = _text(report.name, _LONGEST_NAME)
    return f"[{name}]({quote(report.page)})" if report.page and linked else name


def _said(report: Report) -> str:
    return _text(report.why if report.outcome is None else tell(report.outcome))


def _unmet(name: str, outcome: Outcome) -> Iterator[str]:
    for row in list_unmet(outcome):
        informs = "" if row.required else ", informative"
        title = f"**{row.status}**: {_text(f'{row.title} ({row.name}{informs})')}"
        yield draw_row((_text(name, _LONGEST_NAME), title, _text(see(row)), _text(ask(row)), _text(explain(row))))


def _trace(name: str, outcome: Outcome) -> str:
    """Return the end of an error's trace, folded; empty if there is none."""
    failure = outcome.failure
    if failure is None or not failure.traceback.strip():
        return ""
    end = clip(failure.traceback.strip(), _LONGEST_TRACE, keep_end=True)
    where = f" at {escape(failure.file, quote=False)}:{failure.line}" if failure.file and failure.line else ""
    said = f"{escape(name, quote=False)}: {escape(failure.type, quote=False)}{where}"
    body = _no_reference(escape(make_visible(end), quote=False))
    return f"<details><summary>{_no_reference(said)}</summary>\n\n<pre>{body}</pre>\n\n</details>\n"


def _text(text: str, longest: int = _LONGEST) -> str:
    return _no_reference(plain(clip(text, longest)))


def _no_reference(line: str) -> str:
    """Return Markdown in which @ and # begin no name or number, and nothing is mathematics."""
    apart = _REFERS.sub(r"\g<0><!-- -->", line)
    return apart.replace(_MATHS, "<span>$</span>")
