"""The page says the verdict first and once, loads nothing, and trusts nothing that it was given."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import IPython.display
import nbformat
import pytest

from djinn_checks.outcome import Outcome, Status, judge
from djinn_checks.report.load import OUTCOME_MIME
from djinn_checks.report.logits.plots import plot_differences
from djinn_checks.report.notebook.export import render_html
from djinn_checks.report.style import TEMPLATE_FOLDER, read_style
from djinn_checks.report.tables import ICONS
from djinn_checks.report.verdict import show, show_figure
from tests.report import samples

ATTACK = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>\"'"
LOADS = {"src", "href", "srcset", "data", "poster", "action", "formaction", "background", "xlink:href"}


class Page(HTMLParser):
    """Collects the tags of a page with their attributes, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def named(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pages() -> dict[Status, str]:
    return {
        outcome.status: render_html(samples.executed_notebook(outcome), outcome) for outcome in samples.every_status()
    }


@pytest.mark.parametrize("status", [Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.ERROR])
def test_a_page_says_its_verdict_first_and_once(pages: dict[Status, str], status: Status) -> None:
    body = pages[status].partition("<body")[2]
    banner = body.index('class="banner')
    assert banner < body.index("<h1")
    assert body.count('class="banner') == 1
    assert body.count('<table class="criteria"') == (0 if status is Status.ERROR else 1)
    assert f"<strong>{status.value}</strong>" in body[banner : banner + 300]
    assert ICONS[status] in body[banner : banner + 300]


def test_a_page_loads_nothing_and_forbids_loading(pages: dict[Status, str]) -> None:
    for text in pages.values():
        page = Page(text)
        policies = [meta["content"] for meta in page.named("meta") if "content-security-policy" in str(meta).lower()]
        assert len(policies) == 1
        assert policies[0].startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
        assert not page.named("script")
        assert not page.named("link")
        targets = [value for _, attributes in page.tags for name, value in attributes.items() if name in LOADS]
        assert all(target.startswith(("data:image/", "#")) for target in targets)
        assert not re.search(r"url\(|@import", text)


def test_no_attribute_of_a_page_runs_code(pages: dict[Status, str]) -> None:
    for text in pages.values():
        assert not [name for _, attributes in Page(text).tags for name in attributes if name.startswith("on")]


def test_a_page_is_small_enough_to_send(pages: dict[Status, str]) -> None:
    assert max(len(text.encode()) for text in pages.values()) < 1_500_000


def test_every_figure_has_a_description_of_its_own(pages: dict[Status, str]) -> None:
    images = Page(pages[Status.FAIL]).named("img")
    assert len(images) == 5, "four of the notebook, and what decided at the top"
    assert len({image["alt"] for image in images}) == 5
    assert len(Page(pages[Status.PASS]).named("img")) == 2, "what stands at the top is not drawn again"
    assert all(len(image["alt"]) > 40 for image in images)


def test_every_table_has_a_caption_and_scoped_headings(pages: dict[Status, str]) -> None:
    page = Page(pages[Status.FAIL])
    assert len(page.named("caption")) == len(page.named("table")) > 3
    assert all(heading.get("scope") in ("col", "row", "rowgroup") for heading in page.named("th"))


def test_the_same_outcome_gives_the_same_bytes(pages: dict[Status, str]) -> None:
    again = samples.failed()
    assert render_html(samples.executed_notebook(again), again) == pages[Status.FAIL]


def test_the_outcome_that_was_given_overrules_the_one_in_the_notebook() -> None:
    page = render_html(samples.executed_notebook(samples.passed()), samples.crashed())
    assert "<strong>ERROR</strong>" in page
    assert "<strong>PASS</strong>" not in page


def test_without_a_given_outcome_the_notebook_speaks() -> None:
    assert "<strong>FAIL</strong>" in render_html(samples.executed_notebook(samples.failed()))


def test_a_notebook_without_an_outcome_is_no_verdict() -> None:
    page = render_html(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Logits")]))
    assert "holds no verdict" in page
    assert not [name for name in ("PASS", "FAIL") if f"<strong>{name}</strong>" in page]


def test_an_error_shows_what_stopped_the_check_and_folds_the_traceback(pages: dict[Status, str]) -> None:
    page = pages[Status.ERROR]
    assert "CopyError" in page
    assert "copy of segment 12 failed: CUDA error 700" in page
    assert re.search(r"<details><summary>Traceback</summary><pre>Traceback \(most recent", page)


def test_what_went_wrong_stands_above_what_did_not(pages: dict[Status, str]) -> None:
    rows = re.findall(r'<tr class="(fail|pass|skip)( informative)?">', pages[Status.FAIL])
    assert [status for status, informative in rows if not informative] == [*["fail"] * 5, *["pass"] * 3, *["skip"] * 3]
    assert all(informative for _, informative in rows[11:])


def test_code_is_folded_and_kept(pages: dict[Status, str]) -> None:
    page = Page(pages[Status.PASS])
    folded = [attributes for attributes in page.named("details") if attributes.get("class") == "code"]
    assert len(folded) == 6 + len(samples.TABLES)  # verdict, imports, figures, tables
    assert not [attributes for attributes in folded if "open" in attributes]


def _hostile() -> Outcome:
    criterion = judge(ATTACK, ATTACK, ATTACK, "==", 1, unit=ATTACK, evidence=ATTACK, failed=ATTACK)
    outcome = samples.failed(check=ATTACK, summary=ATTACK, criteria=(criterion,), started_at=ATTACK)
    failure = replace(samples.crashed().failure, type=ATTACK, message=ATTACK, traceback=ATTACK)  # type: ignore[type-var]
    found: dict[str, Any] = {**outcome.measurements, "prompts": [{"index": 0, "tokens": 1, "text": ATTACK}]}
    found["localisation"] = {**samples.localisation(), "weights": [ATTACK], "layers": [ATTACK] * 32}
    found["witness"] = {**found["witness"], "different": [ATTACK]}
    facts = {"measurements": found, "params": {ATTACK: ATTACK}, "environment": {ATTACK: {ATTACK: [ATTACK]}}}
    return replace(outcome, failure=failure, **facts)


def test_text_from_outside_stays_text() -> None:
    outcome = _hostile()
    page = Page(render_html(samples.executed_notebook(outcome), outcome))
    assert not page.named("script")
    assert all(image["src"].startswith("data:") for image in page.named("img"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_text_that_a_cell_printed_or_raised_stays_text() -> None:
    new = nbformat.v4
    outputs = [
        new.new_output("stream", name="stdout", text=ATTACK),
        new.new_output("stream", name="stderr", text=ATTACK),
        new.new_output("execute_result", {"text/plain": ATTACK}),
        new.new_output("execute_result", {"text/latex": ATTACK}),
        new.new_output("display_data", {"image/png": ATTACK}, metadata={"image/png": {"alt": ATTACK}}),
        new.new_output("error", ename=ATTACK, evalue=ATTACK, traceback=[ATTACK]),
    ]
    page = Page(render_html(new.new_notebook(cells=[new.new_code_cell(ATTACK, outputs=outputs)])))
    assert not page.named("script")
    (image,) = page.named("img")
    assert image["src"].startswith("data:image/png;base64,")
    assert image["alt"] == ATTACK
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_messages_that_a_cell_wrote_one_by_one_are_one_fold() -> None:
    new = nbformat.v4
    said = [new.new_output("stream", name="stderr", text=f"message {number}\n") for number in range(17)]
    between = new.new_output("stream", name="stdout", text="said between them")
    outputs = [*said[:9], between, *said[9:]]
    page = render_html(new.new_notebook(cells=[new.new_code_cell("run()", outputs=outputs)]))
    assert page.count("Messages on stderr") == 1
    assert [page.index(f"message {number}\n") for number in range(17)] == sorted(
        page.index(f"message {number}\n") for number in range(17)
    )
    assert page.count("said between them") == 1


def test_papermills_red_letters_are_said_quietly() -> None:
    new, tagged = nbformat.v4, {"tags": ["papermill-error-cell-tag"]}
    marks = ['<span style="color:red">Raised</span>', '<span id="papermill-error-cell" style="color:red">Here</span>']
    page = render_html(new.new_notebook(cells=[new.new_markdown_cell(mark, metadata=tagged) for mark in marks]))
    assert "color:red" not in page
    assert page.count('class="stopped"') == 2
    assert Page(page).named("a")[0]["href"] == "#papermill-error-cell"
    assert page.count('id="papermill-error-cell"') == 1


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(IPython, "get_ipython", object)
    return shown


def test_where_no_kernel_runs_the_verdict_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show(samples.failed())
    told = capsys.readouterr().out
    assert told.startswith("FAIL: ")
    assert "<style" not in told


def test_show_embeds_the_outcome_beside_its_picture(displayed: list[dict[str, Any]]) -> None:
    outcome = samples.failed()
    show(outcome)
    (data,) = displayed
    assert Outcome.from_dict(data[OUTCOME_MIME]).to_dict() == outcome.to_dict()
    assert data["text/plain"].startswith("FAIL: ")
    assert "<strong>FAIL</strong>" in data["text/html"]


def test_show_figure_says_in_words_what_cannot_be_drawn(displayed: list[dict[str, Any]]) -> None:
    show_figure(*plot_differences(samples.inconclusive()))
    assert "nothing to draw" in displayed[0]["text/html"]


def test_nbconvert_finds_the_template_by_name(tmp_path: Path) -> None:
    """As installed: the template lies in a Jupyter data folder, and no Python of ours is on the command line."""
    nbformat.write(samples.executed_notebook(samples.failed()), tmp_path / "x.ipynb")
    installed = tmp_path / "share" / "nbconvert" / "templates"
    installed.mkdir(parents=True)
    (installed / "djinn_checks").symlink_to(TEMPLATE_FOLDER / "djinn_checks")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--template", "djinn_checks", "x.ipynb"]
    environment = {**os.environ, "JUPYTER_PATH": str(tmp_path / "share")}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    page = (tmp_path / "x.html").read_text()
    assert "<strong>FAIL</strong>" in page
    assert page.count('class="banner') == 1


def test_text_reaches_wcag_aa_contrast_in_light_and_dark() -> None:
    light, dark = (_variables(block) for block in re.findall(r"--paper:.*?}", read_style(), re.DOTALL)[:2])
    inks = ("ink", "muted", "link", "pass", "fail", "inconclusive", "error", "skip", "keyword", "string", "number")
    for colours in (light, dark):
        for ink in inks:
            assert _contrast(colours[ink], colours["paper"]) >= 4.5, ink
        for ink in ("ink", "muted", "link", "keyword", "string", "number", "comment"):
            assert _contrast(colours[ink], colours["soft"]) >= 4.5, ink
    fills = re.findall(r"--fill: (#\w+)", read_style())
    assert len(fills) == 5
    assert all(_contrast(fill, "#ffffff") >= 4.5 for fill in fills)


def _variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#\w{6})", block))


def _contrast(first: str, second: str) -> float:
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
