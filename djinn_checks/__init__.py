"""djinn-checks decides three claims about systems that stream weights or swap KV caches.

The outputs are right (`check_logits`), the link is full, the agent wakes up whole. The public names are
loaded when they are first used, so importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from djinn_checks.loading import uncollected

_HOMES = {
    "AgentsParams": "params",
    "Criterion": "outcome",
    "FaultsParams": "params",
    "HostParams": "params",
    "LogitsParams": "params",
    "Model": "models.open",
    "Outcome": "outcome",
    "PcieParams": "params",
    "Status": "outcome",
    "System": "systems.base",
    "WeightRingBuffer": "engine.ring_buffer",
    "check_agents": "checks.agents.check",
    "check_faults": "faults.check",
    "check_host": "checks.host.check",
    "check_logits": "checks.logits.check",
    "check_pcie": "checks.pcie.check",
    "find_system": "systems.base",
    "install_ring_buffer_hooks": "engine.hooks",
    "list_frames": "report.frames",
    "load_outcome": "report.load",
    "open_model": "models.open",
    "show": "report.verdict",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # only who asks pays for it

        return metadata.version("djinn-checks")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _teach_notebook()
    with uncollected():
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def _teach_notebook() -> None:
    """Where IPython runs, let it show outcomes as tables; anywhere else do nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None:
        importlib.import_module(f"{__name__}.report.frontend").register(shell)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
