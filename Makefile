# make setup | demo | test | test-all | test-oldest | lint | format | docs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OLDEST := .venv-oldest
WORKERS ?= 2
PIP    := -m pip install --quiet --disable-pip-version-check

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-all test-oldest lint format docs
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/vlmend demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) -m "not slow"

test-all: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

# What depends on transformers, on the oldest one that pyproject.toml allows, in an environment of its own.
test-oldest: $(OLDEST)/.installed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q -m "not slow" tests/models tests/edits tests/editors

$(OLDEST)/.installed: pyproject.toml constraints.txt constraints-oldest.txt
	@test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	@awk -F== 'FNR == NR { oldest[$$1]; print; next } !($$1 in oldest)' constraints-oldest.txt constraints.txt \
		> $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python $(PIP) -c $(OLDEST)/constraints.txt -e . pytest hypothesis
	@touch $@

lint: setup
	$(BIN)/ruff check src tests docs benchmarks
	$(BIN)/ruff format --check src tests docs benchmarks
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix src tests docs benchmarks
	$(BIN)/ruff format src tests docs benchmarks

# The documentation, into site/; a link that leads nowhere is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/python $(PIP) -c constraints.txt -e '.[docs]'
	@touch $@
