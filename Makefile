# Everything needs only git, make and Python >= 3.11; each target sets up what it needs and is quick when repeated.
#
#   PYTHON=python3.12            which Python makes the virtual environment
#   VENV=.venv                   where it lies
#   EXTRAS=dev                   optional dependencies to install (dev,gpu,cluster,clip,audio,video,points,all)
#   TORCH_SPEC='torch==2.11.0'   install this first: another version, or a CPU build (several GB less) together with the
#                                package index that has it, e.g. TORCH_SPEC='torch==2.11.0+cpu --extra-index-url URL'
#   ARGS='...'                   more words for the command that the target runs

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
TORCH_SPEC ?=
ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test slow faults lint format types check docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## make the virtual environment (the other targets do it too)

quickstart: $(STAMP) ## the whole road in a few minutes: shards, pretraining, probes, report
	@$(BIN)/foundation quickstart $(ARGS)

test: $(STAMP) ## the unit tests
	@$(BIN)/pytest --numprocesses=auto $(ARGS)

slow: $(STAMP) ## the tests that take longer
	@$(BIN)/pytest --numprocesses=auto -m 'slow and not slurm and not gpu and not network' $(ARGS)

faults: $(STAMP) ## inject every fault and rewrite the table in docs/reliability.md
	@$(BIN)/pytest -m 'fault and not slurm and not gpu and not network' --fault-table=docs/reliability.md $(ARGS)

lint: $(STAMP) ## style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(STAMP) ## repair the style
	@$(BIN)/ruff check --fix-only . && $(BIN)/ruff format .

types: $(STAMP) ## types of the library
	@$(BIN)/mypy

check: lint types test ## all of the above that a change must pass

docs: $(STAMP) ## rewrite the recipe reference from the types
	@$(BIN)/python tools/recipe_reference.py

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info

# A change of pyproject.toml or of the settings above installs again; nothing else does.
$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null | grep '^Python' || echo none)."; \
	  echo "Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
ifeq ($(UV),uv)
	@test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV)
	$(if $(TORCH_SPEC),uv pip install --python $(BIN)/python $(TORCH_SPEC))
	@echo "installing foundation into $(VENV) (the first time downloads torch)"
	uv pip install --quiet --python $(BIN)/python --editable '.[$(EXTRAS)]'
else
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' does not work here; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	$(if $(TORCH_SPEC),$(BIN)/pip install --quiet $(TORCH_SPEC))
	@echo "installing foundation into $(VENV) (the first time downloads torch)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
endif
	@touch $@
