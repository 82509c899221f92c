"""The arrows: each room may import what stands left of it, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "djinn_checks"

LEFT = {"errors", "units", "digest", "layers", "attention"}
MODELS = {"models", "random_weights", "safetensors_weights", "smollm2"}
DATA = LEFT | {"outcome", "params"}
SYSTEMS = DATA | MODELS | {"engine", "systems"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "attention": set(),
    "digest": LEFT,
    "layers": LEFT,
    "outcome": LEFT,
    "params": LEFT | {"outcome"},
    "models": DATA | MODELS,
    "random_weights": DATA | MODELS,
    "safetensors_weights": DATA | MODELS,
    "smollm2": DATA | MODELS,
    "instruments": DATA | {"instruments"},
    "engine": DATA | {"engine"},
    "systems": SYSTEMS,
    "server": SYSTEMS | {"server"},
    "checks": SYSTEMS | {"server", "instruments", "checks"},
    "faults": SYSTEMS | {"server", "instruments", "checks", "faults"},
    "report": {"errors", "units", "outcome", "report"},
    "execution": {"errors", "outcome"},
    "suite": {"errors", "params", "execution"},
    "folder": {"errors", "outcome", "report", "execution"},
    "evidence": {"outcome", "report", "execution", "folder"},
    "runner": {"errors", "units", "outcome", "params", "execution", "suite", "folder", "evidence"},
    "cli": {
        "errors",
        "units",
        "outcome",
        "params",
        "report",
        "folder",
        "suite",
        "runner",
        "instruments",
        "faults",
        "checks",
        "server",
    },
    "__main__": {"cli"},
    "__init__": set(),
}
HEAVY_FREE = {"outcome": {"torch", "pydantic", "pynvml"}, "report": {"torch", "pydantic", "pynvml", "transformers"}}


def rooms() -> dict[Path, str]:
    files = [path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts]
    return {path: path.relative_to(PACKAGE).with_suffix("").parts[0] for path in files}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "djinn_checks")
    return names


@pytest.mark.parametrize("path", rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_stands_left_of_it(path: Path) -> None:
    room = rooms()[path]
    own = {name.split(".")[1] for name in imports(path) if name.startswith("djinn_checks.")}
    assert own <= MAY_IMPORT[room], f"{room} may not import {sorted(own - MAY_IMPORT[room])}"
    foreign = {name.split(".")[0] for name in imports(path)}
    assert not foreign & HEAVY_FREE.get(room, set())
    assert "pynvml" not in foreign or path == PACKAGE / "instruments" / "nvml.py"


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, djinn_checks; print([m for m in ('torch', 'transformers', 'pynvml') if m in sys.modules])"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert run.stdout.strip() == "[]"
    assert min(seconds) < 0.5


def test_every_public_name_is_there() -> None:
    import djinn_checks

    assert all(getattr(djinn_checks, name) is not None for name in djinn_checks.__all__)
    assert set(djinn_checks.__all__) <= set(dir(djinn_checks))


def test_no_file_is_too_long_to_read() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in rooms()}
    assert {name: count for name, count in long.items() if count > 500} == {}
