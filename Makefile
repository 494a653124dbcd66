# `make demo` runs the main study from nothing; `make test` installs what tests need and runs them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := src tests benchmarks docs

.PHONY: demo test lint docs browser clean

demo: $(VENV)/.library
	$(BIN)/generality run weak-to-strong --scale small

test: lint docs browser $(VENV)/.tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(VENV)/.tests
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/.tests
	$(BIN)/python docs/studies_table.py --check
	$(BIN)/mkdocs build --strict --quiet

# The page tests look at reports in a real browser; without one they are skipped and say so.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq -y chromium; } >/dev/null 2>&1 \
		|| echo "No chromium could be installed: the page tests will be skipped."

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.library: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pinned packages into $(VENV) (a few minutes)"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.tests: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing pinned packages into $(VENV), those of the tests included (a few minutes)"
	@$(PIP) torch
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.library

clean:
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache
