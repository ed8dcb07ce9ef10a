# make tune: from a clean clone to a finished sweep.   make test: the tests.   make help: the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
LOWEST ?= .venv-lowest
JOBS ?= 3
# Each slow test has a Ray of several processes: more at a time would only wait for each other.
SLOW_JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --dist loadfile --durations 25 --durations-min 1
MLFLOW_TRACKING_URI ?= sqlite:///$(CURDIR)/mlflow.db

.PHONY: help install tune train ui test quick lowest test-slow soak lint clean

help:
	@echo "make tune       sweep search_spaces/calculator.yaml on this machine; the last sweep is kept as *.old-N"
	@echo "make train      one run of configs/calculator.yaml into out/calculator"
	@echo "make ui         the MLflow UI over the recorded runs"
	@echo "make test       lint, types and the tests, all but slow and gpu ones; JOBS=$(JOBS) at a time"
	@echo "make test-slow  the tests marked slow; SLOW_JOBS=$(SLOW_JOBS) at a time"
	@echo "make lowest     the tests of make test with the lowest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "make soak       the whole of what those two run a sample of: an hour"
	@echo "make clean      remove $(VENV); data, runs and sweeps stay"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # pip uses one core; some packages hold what is no Python
	@touch $@

tune: install
	$(BIN)/python -m popgpt.tune search_spaces/calculator.yaml --force

train: install
	$(BIN)/python -m popgpt.train configs/calculator.yaml

# The address is no argument: it may hold a password.
ui: export MLFLOW_BACKEND_STORE_URI = $(MLFLOW_TRACKING_URI)
ui: install
	$(BIN)/python -m mlflow ui

test: install
	@$(MAKE) --no-print-directory --jobs 2 lint quick

quick: install
	$(PYTEST) --numprocesses $(JOBS) -m "not slow and not gpu and not soak"

# optuna and wandb among them; moto and what else only tests need are as new as they come.
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	$(LOWEST)/bin/python -m pytest --dist loadfile --numprocesses $(JOBS) -m "not slow and not gpu and not soak"

test-slow: install
	$(PYTEST) --numprocesses $(SLOW_JOBS) -m "slow and not gpu and not soak"

soak: install
	$(PYTEST) --numprocesses $(SLOW_JOBS) -m "soak and not gpu"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(LOWEST)
