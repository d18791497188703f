# make demo: the whole loop on data made here.   make test: the test suite.   Both set everything up first.
.PHONY: demo test setup check engine clean help

PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

help:
	@sed -n 1p Makefile; echo "make setup: only the set-up.   make check: ruff and mypy.   make clean: remove what was set up in this folder."

demo: $(VENV)/.run engine
	$(BIN)/srl-swe demo

test: $(VENV)/.dev engine model check
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.run engine model

# The container engine, and the base image of everything that is built here.
engine:
	@docker/ensure-engine
	@docker/make-base-image

.PHONY: model
model: $(VENV)/.run
	@$(BIN)/python -m srl_swe.demo.model

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "setup: no Python of version 3.11 or newer was found; name one: make PYTHON=…"; exit 1; }
	@echo "setup: virtual environment in $(VENV)"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		echo "setup: installing $$package"; \
		$(AS_ROOT) apt-get update -qq && $(AS_ROOT) apt-get install -y -qq $$package >/dev/null; } || { \
		echo "setup: $(PYTHON) cannot make virtual environments; install its venv module"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'

# The stamps are made anew when what is installed changes.
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setup: packages (torch, transformers, swebench, …) by constraints.txt; some minutes the first time"
	$(PIP) -e '.[train,eval,data]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "setup: packages for the tests"
	$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
