"""A JupyterLab on this machine, and a notebook in it, as somebody sees it who has just installed both."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.report.chromium import Browser

_WAIT_S = 240
_OPTIONS = (
    "--no-browser",
    "--allow-root",
    "--IdentityProvider.token=",
    "--LabApp.expose_app_in_browser=True",
    "--LabApp.collaborative=False",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=",
)
_ALL_IN_THE_PAGE = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
"""So that a cell out of view is asked as one within it; the looks are the same."""


class Lab:
    """The server, with a folder of notebooks."""

    def __init__(self, folder: Path, home: Path) -> None:
        """Serve `folder`; what a user would have at home is empty, in `home`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        settings = home / "settings"
        settings.mkdir(parents=True)
        (settings / "overrides.json").write_text(json.dumps(_ALL_IN_THE_PAGE))
        places = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
        environment = os.environ | {name: str(home / place) for name, place in places.items()}
        command = [sys.executable, "-m", "jupyterlab", *_OPTIONS, f"--port={port}", f"--ServerApp.root_dir={folder}"]
        command += [f"--LabApp.app_settings_dir={settings}", f"--LabApp.workspaces_dir={home / 'workspaces'}"]
        self.log = home / "lab.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + _WAIT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab does not answer: {self.log.read_text()[-2000:]}")
            time.sleep(0.2)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(30)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False


class NotebookInLab:
    """One notebook, open in a tab of the browser's."""

    def __init__(self, lab: Lab, browser: Browser, name: str, *, width: int = 1280) -> None:
        self._browser, self._width = browser, width
        self._resize(900)
        browser.open(f"{lab.address}/doc/tree/{name}?reset")
        self.wait_for("!!(window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell'))", "the notebook")
        self.wait_for("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", "a kernel")

    def run_all(self) -> None:
        """Ask for every cell to be run, and do not wait."""
        self.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")

    def is_over(self) -> bool:
        """Tell whether every cell that was asked for has run, or one has failed."""
        return bool(self.evaluate(_IS_OVER))

    def outputs(self) -> list[dict[str, Any]]:
        """Return what all cells have given, as a notebook holds it."""
        return list(self.evaluate(_OUTPUTS))

    def evaluate(self, script: str) -> Any:
        """Return the value of a script in the page."""
        return self._browser.evaluate(script)

    def wait_for(self, condition: str, what: str) -> None:
        """Wait until a script is true."""
        deadline = time.monotonic() + _WAIT_S
        while not self.evaluate(condition):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} never came")
            time.sleep(0.2)

    def picture(self, file: Path, *, top: int = 0, height: int = 900) -> None:
        """Write what is seen from `top` pixels down the notebook, in a window so high."""
        self._resize(height)
        self.evaluate(f"{_SCROLLED}.scrollTop = {top}; new Promise(done => setTimeout(done, 400))")
        shown = self._browser.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shown["data"]))

    def height(self) -> int:
        """Return how high the whole notebook is, in pixels."""
        return int(self.evaluate(f"{_SCROLLED}.scrollHeight"))

    def _resize(self, height: int) -> None:
        size = {"width": self._width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._browser.call("Emulation.setDeviceMetricsOverride", **size)


_SCROLLED = "(document.querySelector('.jp-WindowedPanel-outer') || document.querySelector('.jp-Notebook'))"
_OUTPUTS = """jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON())"""
_IS_OVER = f"""(() => {{
  const cells = jupyterapp.shell.currentWidget.content.widgets.filter(cell =>
    cell.model.type === 'code' && cell.model.sharedModel.source.trim());
  return cells.every(cell => cell.model.executionCount !== null && cell.model.executionState !== 'running')
    || {_OUTPUTS}.some(output => output.output_type === 'error');
}})()"""
