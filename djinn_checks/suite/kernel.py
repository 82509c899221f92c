"""papermill with a kernel of our own: this interpreter and this package, spoken to through files.

A kernelspec is looked up by its name in folders of the user's; `python3` there may start another interpreter, whose
packages then run in silence. Nothing is looked up here. The kernel is started by the interpreter that runs this,
finds modules where this one does and none in the working folder, and ends with it. It listens at sockets in the run's
own folder, which nobody else can enter: no ports, which another process may take meanwhile. Where a socket's path
would be too long, it is ports after all.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.cli import papermill
from papermill.engines import NBClientEngine, papermill_engines
from traitlets import default

from djinn_checks.processes import start_code, tied
from djinn_checks.suite.saving import saved_in_time

ENGINE = "djinn-checks"
SCRATCH = "DJINN_CHECKS_SCRATCH"
_LONGEST_SOCKET = 100
"""Bytes. The operating systems' limits are 104 and 108, with what stands behind the path."""


class OwnKernelManager(AsyncKernelManager):
    """Starts the kernel with this interpreter, and speaks to it through sockets of the run's folder."""

    @property
    def kernel_spec(self) -> KernelSpec:
        code = start_code(
            "from djinn_checks.suite.stacks import watch_this_run; watch_this_run(); "
            "from ipykernel.kernelapp import launch_new_instance as start; start()"
        )
        argv = [sys.executable, "-c", code, "-f", "{connection_file}", "--InteractiveShellApp.ignore_cwd=True"]
        return KernelSpec(argv=tied(argv), display_name="Python 3", language="python")

    @default("connection_file")
    def _place_connection_file(self) -> str:
        return str(Path(os.environ[SCRATCH]) / "kernel.json")

    @default("transport")
    def _choose_transport(self) -> str:
        socket = Path(os.environ[SCRATCH]) / "kernel-ipc-9"
        return "ipc" if len(os.fsencode(socket)) <= _LONGEST_SOCKET else "tcp"


class OwnKernelEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no annotations
    """papermill's own engine, with that kernel, and with fewer writes."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        with saved_in_time(nb_man) as begin_cell:
            options = {**options, "kernel_manager_class": OwnKernelManager, "on_cell_execute": begin_cell}
            return super().execute_managed_notebook(nb_man, kernel_name, **options)


def main() -> None:
    """Run papermill's command line; `--engine djinn-checks` is known to it."""
    papermill_engines.register(ENGINE, OwnKernelEngine)
    papermill()
