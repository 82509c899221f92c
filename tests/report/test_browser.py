"""In a real browser the page reaches nobody, whatever a notebook put into it."""

from __future__ import annotations

import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from djinn_checks.report.notebook.export import render_html
from tests.report import samples
from tests.report.chromium import Browser
from tests.report.notebook import hostile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that it was asked for."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def _open(path: Path, profile: Path) -> str:
    """Return the document as Chromium holds it after everything that it wanted to load."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", f"--user-data-dir={profile}"]
    command = [str(CHROMIUM), *flags, "--dump-dom", path.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def test_a_page_reaches_nobody_even_if_an_output_wants_it_to(tmp_path: Path, requests: tuple[str, list[str]]) -> None:
    server, seen = requests
    wanted = _wanted(server)
    notebook = samples.executed_notebook(samples.passed())
    notebook.cells += [
        nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", {"text/html": wanted})]),
        nbformat.v4.new_markdown_cell(wanted),
    ]
    (tmp_path / "open.html").write_text(_without_policy(render_html(notebook)))
    assert "<title>PASS: logits – djinn-checks</title>" in _open(tmp_path / "open.html", tmp_path / "profile")
    assert seen == [], "what wants to be loaded does not even come onto the page"


def test_the_policy_stops_what_might_come_onto_a_page_all_the_same(
    tmp_path: Path, requests: tuple[str, list[str]]
) -> None:
    server, seen = requests
    page = render_html(samples.executed_notebook(samples.passed())).replace("</main>", f"{_wanted(server)}</main>")
    (tmp_path / "page.html").write_text(page)
    assert "<title>PASS: logits – djinn-checks</title>" in _open(tmp_path / "page.html", tmp_path / "profile")
    assert seen == []

    (tmp_path / "open.html").write_text(_without_policy(page))
    assert "<title>ran</title>" in _open(tmp_path / "open.html", tmp_path / "profile")
    assert {"/image", "/style", "/frame", "/fetch", "/css"} <= set(seen)


def test_no_hostile_notebook_leaves_the_page_or_hides_its_verdict(tmp_path: Path) -> None:
    every = [cell for cells in hostile.NOTEBOOKS.values() for cell in cells]
    for name, page in (("whole", render_html(hostile.failed_notebook(every))),):
        (tmp_path / f"{name}.html").write_text(_without_policy(page))
        with Browser(tmp_path / "profile") as browser:
            browser.open((tmp_path / f"{name}.html").as_uri())
            shown = browser.evaluate(_VISIBLE)
    assert shown["address"].endswith("whole.html")
    assert shown["banners"] == ["FAIL"]
    assert shown["forged"] == 0
    assert shown["top"], "the verdict is what is seen first"


_VISIBLE = f"""(() => {{
  const banners = [...document.querySelectorAll(".banner")];
  const box = banners[0].getBoundingClientRect();
  const seen = document.elementFromPoint(box.left + box.width / 2, box.top + 20);
  return {{
    address: location.href,
    banners: banners.map((banner) => banner.querySelector("strong").innerText),
    forged: document.querySelectorAll("{hostile.MARK}, main style, main meta").length,
    top: box.height > 40 && banners[0].contains(seen),
  }};
}})()"""


def _without_policy(page: str) -> str:
    return page.replace('http-equiv="Content-Security-Policy"', "name='none'")


def _wanted(server: str) -> str:
    """Return markup that asks for something in every way."""
    return (
        f'<img src="{server}/image"><link rel="stylesheet" href="{server}/style"><iframe src="{server}/frame"></iframe>'
        f'<script>document.title = "ran"; fetch("{server}/fetch")</script>'
        f'<p style="background: url({server}/css)">x</p>'
    )
