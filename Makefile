# make demo: score the bundled example.  make test: run the tests.  Both do all the set-up, on Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint build bench benchmarks clean

demo: $(VENV)/.demo
	$(BIN)/rfprm demo

test: $(VENV)/.test
	$(BIN)/python -m pytest

lint: $(VENV)/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

build: $(VENV)/.test
	$(BIN)/python packaging/build.py dist

bench: $(VENV)/.test
	$(BIN)/python bench/run.py --quick

# The whole comparison, peers' environments included, and docs/benchmarks.md from it: an hour and a half.
benchmarks: $(VENV)/.test
	$(BIN)/python bench/run.py --install --save bench/results/$$(date +%F)-0.5b.json
	$(BIN)/python bench/report.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

# torch comes first and alone, so that a CPU build that is at hand is taken and no other version is looked for.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[export,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) dist
