# make demo: score the bundled example.  make test: run the tests.  Both do all the set-up, on Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test test-export test-runtime test-rest test-wheel mutants torture torture-files torture-load integration lint supply docs notebooks build bench benchmarks cuda clean

demo: $(VENV)/.demo
	$(BIN)/rfprm demo

# In three parts of about the same time, two at a time.
test: $(VENV)/.test
	$(MAKE) --keep-going --jobs=2 test-export test-runtime test-rest

REST = $(addprefix tests/export/test_,docs.py notebooks.py examples.py families.py family_traps.py)

test-export: $(VENV)/.test
	$(BIN)/python -m pytest tests/export $(addprefix --ignore=,$(REST))

test-runtime: $(VENV)/.test
	$(BIN)/python -m pytest tests/runtime

test-rest: $(VENV)/.test
	$(BIN)/python -m pytest $(REST) tests/torture

# Every attempt to break it, counted: files, faults, load, texts. Half an hour; PARTS="tests/torture/test_soak.py" runs
# one part, FACTOR=7.5 tries so many times as much. The short forms are in `make test`.
FILES = $(addprefix tests/torture/test_,damaged_ledgers.py faults.py files.py guided.py harmful_bundles.py)
TORTURE = $(BIN)/python -m pytest --long --factor $(or $(FACTOR),1)

torture: $(VENV)/.test
	$(BIN)/pip install --quiet --group fuzz || echo "not looked for by coverage: atheris can't be installed"
ifdef PARTS
	$(TORTURE) $(PARTS) --report dist/torture.json
else
	$(MAKE) --keep-going --jobs=2 torture-files torture-load
endif

torture-files: $(VENV)/.test
	$(TORTURE) $(FILES) --report dist/torture-files.json

torture-load: $(VENV)/.test
	$(TORTURE) tests/torture $(addprefix --ignore=,$(FILES)) --report dist/torture-load.json

# The plain wheel alone: the runtime's tests import what is installed, and PyTorch is not there. TESTS names fewer.
test-wheel: $(VENV)-wheel/.done
	cd $(VENV)-wheel && RFPRM_TEST_INSTALLED=1 bin/python -m pytest $(addprefix $(CURDIR)/,$(or $(TESTS),tests/runtime))

# Which changes of the code do its tests not notice? MODULES="rfprm_lite/plan/packing.py" MINUTES=10 bounds it, and
# SAMPLE=60 draws so many changes of each module.
mutants: $(VENV)/.test $(VENV)-mutants/.done
	$(BIN)/python tests/mutants.py --cosmic-ray $(abspath $(VENV)-mutants)/bin/cosmic-ray --minutes $(or $(MINUTES),60) $(if $(SAMPLE),--sample $(SAMPLE)) $(MODULES)

# Ray on a local cluster, and the trainers' own code: TRL, verl, OpenRLHF. An environment of its own, of about 2 GB.
integration: $(VENV)-integration/.done
	$(VENV)-integration/bin/python -m pytest tests/integration

# The licences of what users get with it, and known vulnerabilities, where PyPI can be asked for them.
supply: $(VENV)/.test
	$(BIN)/python packaging/licences.py
	$(BIN)/pip install --quiet pip-audit || echo "vulnerabilities: not checked, pip-audit can't be installed"
	$(BIN)/python packaging/audit.py

docs: $(VENV)/.test
	$(BIN)/python -m mkdocs build --strict --site-dir dist/site

notebooks: $(VENV)/.test
	$(BIN)/python docs/notebooks/run.py

lint: $(VENV)/.test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

build: $(VENV)/.test
	$(BIN)/python packaging/build.py dist

bench: $(VENV)/.test
	$(BIN)/python bench/run.py --quick

# The whole comparison, peers' environments included, and docs/benchmarks.md from it: an hour and a half.
benchmarks: $(VENV)/.test
	$(BIN)/python bench/run.py --install --save bench/results/$$(date +%F)-0.5b.json
	$(BIN)/python bench/report.py
	$(BIN)/python bench/scaling.py

# On a machine with a GPU: right, fast, and where the time goes. Half an hour once its weights are made.
cuda: $(VENV)-cuda/.done
	$(VENV)-cuda/bin/python bench/cuda_report.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable .
	touch $@

# torch comes first and alone, so that a CPU build that is at hand is taken and no other version is looked for.
# The pip of Python 3.11 knows no dependency groups.
$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable '.[export,data,its-hub,plot,voting]' --group dev
	touch $@ $(VENV)/.demo

# verl and OpenRLHF pin versions that exclude each other's: only their reward code is run. The last TRL with a PRMTrainer
# lies in a folder of its own.
$(VENV)-integration/.done: pyproject.toml tests/integration/requirements.txt
	$(PYTHON) -m venv $(VENV)-integration
	$(VENV)-integration/bin/pip install --quiet torch==2.13.0
	$(VENV)-integration/bin/pip install --quiet --editable '.[export,ray]' -r tests/integration/requirements.txt
	$(VENV)-integration/bin/pip install --quiet --no-deps verl==0.9.1 openrlhf==0.11.2
	$(VENV)-integration/bin/pip install --quiet --no-deps --upgrade --target $(VENV)-integration/trl-prm trl==1.13.0
	touch $@

# PyPI's torch for Linux is one for CUDA. onnxruntime and onnxruntime-gpu have the same files.
$(VENV)-cuda/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)-cuda
	$(VENV)-cuda/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)-cuda/bin/pip install --quiet torch==2.13.0
	$(VENV)-cuda/bin/pip install --quiet --editable '.[export,data,its-hub,plot,voting]' --group dev
	$(VENV)-cuda/bin/pip uninstall --quiet --yes onnxruntime
	$(VENV)-cuda/bin/pip install --quiet 'onnxruntime-gpu[cuda,cudnn]>=1.31.1'
	touch $@

$(VENV)-wheel/.done: pyproject.toml $(shell find rfprm_lite -type f ! -name '*.pyc') | $(VENV)/.test
	rm -rf $(VENV)-wheel
	$(PYTHON) -m venv $(VENV)-wheel
	$(BIN)/python -m build --wheel --no-isolation --outdir $(VENV)-wheel/dist .
	$(VENV)-wheel/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(VENV)-wheel/bin/pip install --quiet "$$(echo $(VENV)-wheel/dist/*.whl)[data,its-hub,plot,voting]" --group runtime-tests
	touch $@

$(VENV)-mutants/.done:
	$(PYTHON) -m venv $(VENV)-mutants
	$(VENV)-mutants/bin/pip install --quiet 'cosmic-ray>=8.3'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-cuda $(VENV)-integration $(VENV)-wheel $(VENV)-mutants dist
