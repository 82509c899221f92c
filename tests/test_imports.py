"""The arrows: each room may import what stands left of it, and nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

from djinn_checks.report import drawings

PACKAGE = Path(__file__).parents[1] / "djinn_checks"

LEFT = {
    "errors",
    "units",
    "addresses",
    "plain_tensors",
    "digest",
    "layers",
    "loading",
    "attention",
    "devices",
    "processes",
    "bounded",
    "visible",
    "decode_cache",
    "nearest",
}
DATA = LEFT | {"outcome", "params", "measurements"}
SYSTEMS = DATA | {"models", "engine", "systems"}
CHECKS = SYSTEMS | {"server", "instruments", "checks"}
REPORT = {"errors", "units", "loading", "bounded", "visible", "outcome", "measurements", "report"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "units": set(),
    "loading": set(),
    "attention": set(),
    "bounded": set(),
    "visible": set(),
    "decode_cache": set(),
    "nearest": set(),
    "addresses": set(),
    "plain_tensors": set(),
    "devices": LEFT,
    "digest": LEFT,
    "layers": LEFT,
    "processes": set(),
    "outcome": LEFT | {"measurements", "outcome"},
    "measurements": {"measurements"},
    "params": LEFT | {"outcome"},
    "models": DATA | {"models"},
    "instruments": DATA | {"instruments"},
    "engine": DATA | {"engine"},
    "systems": SYSTEMS,
    "server": SYSTEMS | {"argument_types", "server"},
    "checks": CHECKS,
    "faults": CHECKS | {"faults"},
    "report": REPORT,
    "suite": REPORT | {"params", "processes", "nearest", "suite"},
    "verify": CHECKS | REPORT | {"suite", "verify"},
    "bundle": REPORT | {"suite", "bundle"},
    "plausible": {"errors", "units", "bounded", "nearest"},
    "argument_types": {"devices"},
    "commands": REPORT
    | {"argument_types", "devices", "params", "suite", "instruments", "faults", "checks", "server", "plausible"}
    | {"verify", "bundle", "commands"},
    "cli": {"errors", "visible", "checks", "commands"},
    "__main__": {"cli"},
    "__init__": {"loading"},
}
ROOMS_OF_CHECKS = {"logits", "pcie", "agents", "host", "faults"}
HEAVY = {"torch", "pydantic", "pynvml", "transformers"}
HEAVY_FREE = {"outcome": HEAVY, "measurements": HEAVY | {"pandas"}, "report": HEAVY}


def sources() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "templates" not in path.parts]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in sources()}


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def imports(path: Path) -> set[str]:
    """Return every module that a file imports, late imports and names imported from a package included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            inner = {f"{module}.{alias.name}" for alias in node.names}
            names.update(inner & MODULES.keys() or {module})
    return names


def own_imports(module: str) -> set[str]:
    return imports(MODULES[module]) & MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_only_what_stands_left_of_it(module: str) -> None:
    room, path = room_of(module), MODULES[module]
    own = {room_of(name) for name in own_imports(module)}
    assert own <= MAY_IMPORT[room], f"{room} may not import {sorted(own - MAY_IMPORT[room])}"
    foreign = {name.split(".")[0] for name in imports(path)}
    assert not foreign & HEAVY_FREE.get(room, set())
    assert "pynvml" not in foreign or path == PACKAGE / "instruments" / "nvml.py"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_rooms_of_two_checks_do_not_know_each_other(module: str) -> None:
    parts = module.split(".")
    if len(parts) < 3 or parts[2] not in ROOMS_OF_CHECKS:
        return
    beside = {
        name.split(".")[2] for name in own_imports(module) if name.split(".")[1:2] == parts[1:2] and name.count(".") > 1
    }
    assert not (beside & ROOMS_OF_CHECKS) - {parts[2]}


def test_no_import_leads_back_to_where_it_came_from() -> None:
    left = {module: own_imports(module) for module in MODULES}
    left["djinn_checks.report.drawings"] |= {f"djinn_checks.report.{home}" for home in set(drawings._HOMES.values())}
    while free := {module for module, needs in left.items() if not needs & left.keys()}:
        left = {module: needs for module, needs in left.items() if module not in free}
    assert left == {}, "a circle of imports"


@pytest.mark.parametrize("room", ["checks", "faults", "report"])
def test_a_prefix_that_many_files_share_is_a_folder_that_is_missing(room: str) -> None:
    names = [path.name for path in (PACKAGE / room).rglob("*.py")]
    assert [name for name in names if name.startswith(("logit", "pcie", "agent"))] == []


def test_importing_the_package_is_quick_and_loads_nothing_heavy() -> None:
    code = "import sys, djinn_checks; print([m for m in ('torch', 'transformers', 'pynvml') if m in sys.modules])"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
        assert run.stdout.strip() == "[]"
    assert min(seconds) < 0.5  # under 0.1 s on a machine at rest; a busy one is given five times that


@pytest.mark.parametrize("name", ["pcie-bursty", "host"])
def test_a_recorded_run_is_judged_without_pytorch(name: str) -> None:
    check, params = ("check_host", "HostParams") if name == "host" else ("check_pcie", "PcieParams")
    code = (
        f"import sys, yaml; from djinn_checks import {check}, {params}\n"
        f"given = {params}(**yaml.safe_load(open('params/replay/{name}.yaml')))\n"
        f"outcome = {check}(given)\n"
        "print(outcome.status, outcome.environment['device'], 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["PASS" if name == "host" else "FAIL", "cpu", "False"]


def test_every_public_name_is_there() -> None:
    import djinn_checks

    assert all(getattr(djinn_checks, name) is not None for name in djinn_checks.__all__)
    assert set(djinn_checks.__all__) <= set(dir(djinn_checks))


TESTS = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_what_tests_share_lies_in_a_module_without_tests(path: Path) -> None:
    names = {part for module in imports(path) for part in module.split(".") if module.startswith("tests")}
    names |= {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests")
        for alias in node.names
    }
    assert {name for name in names if name.startswith("test_")} == set()


LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def test_no_file_is_too_long_to_read() -> None:
    long = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in long.items() if count > LONGEST_FILE} == {}


def test_no_function_is_too_long_to_read() -> None:
    long = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: count for name, count in long.items() if count > LONGEST_FUNCTION} == {}
