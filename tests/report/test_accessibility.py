"""Every kind of page, in a real browser: it asks nobody for anything, is silent, and axe-core finds nothing serious."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from djinn_checks.outcome import Outcome, Status
from djinn_checks.report.load import load_outcome
from djinn_checks.report.notebook.export import render_html
from djinn_checks.report.suite.compare_page import render_comparison
from djinn_checks.report.suite.index import render_index
from djinn_checks.report.verdict import render_figure
from djinn_checks.suite.folder import render_report
from tests.report import chromium, samples
from tests.report.faults.samples import fault, found
from tests.report.pcie.samples import PLOTS, TABLES, replayed


def _find_axe() -> Path | None:
    """Return axe-core's script from a package that brings it along; the package itself is not imported."""
    spec = importlib.util.find_spec("axe_playwright_python")
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0]) / "axe.min.js" if folders else None


AXE = _find_axe()
LOOKS = {
    "light": {"width": 1280, "scheme": "light", "media": ""},
    "dark": {"width": 1280, "scheme": "dark", "media": ""},
    "phone": {"width": 400, "scheme": "light", "media": ""},
    "paper": {"width": 800, "scheme": "light", "media": "print"},
}
KINDS = ("pass", "fail", "inconclusive", "error", "pcie", "agents", "faults", "hostile", "index", "compare")
FIGURES = ("pass", "fail", "pcie", "agents", "faults", "index")
"""Kinds that begin with a picture: an ERROR has nothing to draw, nor has a system that could not run."""
AGENTS = Path(__file__).parents[1] / "data" / "outcomes" / "agents.outcome.json"
ATTACK = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>\"'"
SCROLLS = "summary, a[href], .scroll, .picture, .foreign"
"""What a reader opens, follows or scrolls: all of it has to be within reach of the keyboard."""
pytestmark = [
    pytest.mark.skipif(chromium.PATH is None, reason="needs Chromium (Debian: apt-get install chromium)"),
    pytest.mark.skipif(AXE is None, reason="needs axe-core (pip install --no-deps axe-playwright-python)"),
]


def _pcie_notebook(outcome: Outcome) -> Any:
    shown = [render_figure(*plot(outcome)) for plot in PLOTS] + [table(outcome) for table in TABLES]
    cells = [nbformat.v4.new_markdown_cell("# PCIe"), *(samples.html_cell("show(x)", fragment) for fragment in shown)]
    return nbformat.v4.new_notebook(cells=cells)


def _pages() -> dict[str, str]:
    pages = {
        outcome.status.value.lower(): render_html(samples.executed_notebook(outcome), outcome)
        for outcome in samples.every_status()
    }
    replay = replayed("bursty")
    pages["pcie"] = render_html(_pcie_notebook(replay), replay)
    agents = load_outcome(AGENTS)
    pages["agents"], pages["faults"] = (
        render_report(None, agents),
        render_report(None, found(fault("a"), fault("b", verdict="MISSED"))),
    )
    pages["hostile"] = _hostile_page()
    suite = {outcome.status.value: outcome for outcome in samples.every_status()} | {"pcie": replay, "agents": agents}
    suite["hostile"] = samples.failed(summary=ATTACK, params={ATTACK: ATTACK}, environment={"host": ATTACK})
    files = {name: {f"{name}.html": 1000, f"{name}.log": 10} for name in suite}
    pages["index"] = render_index("suite", suite, files)
    changed = {**suite, Status.PASS.value: samples.failed(environment={"device": "cpu"}, params={"seed": 1})}
    pages["compare"] = render_comparison(("last week", "today"), suite, changed)
    return pages


def _hostile_page() -> str:
    """A page of a model that says markup, on a machine of a hostile name, with cells that show it as such."""
    found = {**samples.measurements(), "prompts": [{"index": 0, "tokens": 1, "text": ATTACK}]}
    outcome = samples.failed(summary=ATTACK, measurements=found, params={ATTACK: ATTACK}, environment={"host": ATTACK})
    notebook = samples.executed_notebook(outcome)
    notebook.cells += [samples.html_cell("x", ATTACK), nbformat.v4.new_markdown_cell(ATTACK)]
    return render_html(notebook, outcome)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    for kind, page in _pages().items():
        (folder / f"{kind}.html").write_text(page, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_quiet_and_accessible(kind: str, look: str, folder: Path, browser: chromium.Browser) -> None:
    view = LOOKS[look]
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=view["width"], height=900, deviceScaleFactor=1, mobile=False
    )
    scheme = [{"name": "prefers-color-scheme", "value": view["scheme"]}]
    browser.call("Emulation.setEmulatedMedia", media=view["media"], features=scheme)
    browser.open((folder / f"{kind}.html").as_uri())
    assert browser.requests() == []
    assert browser.complaints() == []
    unreachable = f"[...document.querySelectorAll('{SCROLLS}')].filter(node => node.tabIndex < 0).length"
    assert browser.evaluate(unreachable) == 0
    if look == "light" and kind in FIGURES:
        top = browser.evaluate("document.querySelector('figure').getBoundingClientRect().top")
        assert top <= 900, "the picture stands on the first screen"
    if look == "phone":
        wide = "[...document.images].filter(image => image.getBoundingClientRect().width > innerWidth).length"
        assert browser.evaluate(wide) == 0, "every figure is seen whole"
        assert browser.evaluate("document.documentElement.scrollWidth") <= view["width"], "it does not scroll sideways"
    assert AXE is not None
    browser.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found = browser.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert found["passes"], "axe looked at nothing"
    serious = [
        (rule["id"], rule["help"], [node["html"][:200] for node in rule["nodes"]][:3])
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_the_instruments_see_a_page_that_asks_complains_and_cannot_be_read(
    tmp_path: Path, browser: chromium.Browser
) -> None:
    (tmp_path / "bad.html").write_text(
        '<!DOCTYPE html><html><body><img src="http://127.0.0.1:9/x.png"><p style="color:#ddd;background:#fff">pale</p>'
        "<script>console.error('no'); undefinedName</script></body></html>"
    )
    browser.open((tmp_path / "bad.html").as_uri())
    assert browser.requests() == ["http://127.0.0.1:9/x.png"]
    assert len(browser.complaints()) >= 2
    assert AXE is not None
    browser.evaluate(AXE.read_text(encoding="utf-8") + ";0")
    found = {rule["id"] for rule in browser.evaluate("axe.run(document)")["violations"]}
    assert {"image-alt", "color-contrast", "html-has-lang"} <= found
