# 'make demo' and 'make test' need Python 3.11 or newer and nothing else: they make .venv when it is missing or out of date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
# One worker per core with one thread each is how searches run, and how tests run fastest.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help demo small test lint format types pytest bench docs install clean

help:
	@echo "make demo    a whole search on a small language model, its report and an optimizer in a file (at most 4 minutes after installing)"
	@echo "make small   the same on CIFAR-10, about an hour; the tables and pictures of docs/results/cifar10-small.md"
	@echo "make test    lint, types and tests (at most 10 minutes after installing)"
	@echo "make lint | format | types | pytest | bench | docs | install | clean"

install: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "optevolve needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1)."; \
		echo "Name another: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs the package python3-venv."; exit 1; }
	@echo "Installing into $(VENV) (once; PyTorch is the large part)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,data]'
	@touch $(READY)

# A finished run is not repeated, an interrupted one goes on: 'optevolve search' sees to both.
demo: $(READY)
	@$(BIN)/optevolve search --preset quick --out $(DEMO)
	@$(BIN)/optevolve top $(DEMO)
	@$(BIN)/optevolve show $(DEMO)
	@$(BIN)/python examples/use_best_optimizer.py $(DEMO)

# The run of docs/results/cifar10-small.md, its pictures, and its tables on standard output. Data: OPTEVOLVE_DATA, else the Hub.
small: $(READY)
	@$(BIN)/optevolve search --preset small --out runs/small
	@$(BIN)/optevolve report runs/small --figures docs/results/cifar10-small
	@$(BIN)/python benchmarks/run_tables.py runs/small

test: $(READY) lint types pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

pytest: $(READY)
	$(THREADS) $(BIN)/python -m pytest -n 2 --dist worksteal

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# All that need no arguments.
WITH_ARGUMENTS := gallery protocols run_tables
bench: $(READY)
	@set -e; for script in $(filter-out $(WITH_ARGUMENTS:%=benchmarks/%.py),$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script; done

# docs/optimizers.md and its figures; what steps cost is read from docs/optimizers/cost.json.
docs: $(READY)
	$(THREADS) $(BIN)/python benchmarks/gallery.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
