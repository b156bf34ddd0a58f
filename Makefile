# Everything needs only git, make and Python >= 3.11; each target sets up what it needs and is quick when repeated.
#
#   PYTHON=python3.12            which Python makes the virtual environment
#   VENV=.venv                   where it lies
#   EXTRAS=audio,video           optional dependencies besides (gpu,cluster,remote,clip,audio,video,points,
#                                imu,convert,finetune,all)
#   TORCH_SPEC='torch==2.11.0'   install this first: another version, or a CPU build (several GB less) together with the
#                                package index that has it, e.g. TORCH_SPEC='torch==2.11.0+cpu --extra-index-url URL'
#   ARGS='...'                   more words for the command that the target runs

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?=
TORCH_SPEC ?=
ARGS ?=
BIN := $(VENV)/bin
comma := ,
# The core is what the quickstart and the README's commands need; the tools of developers come to it when first wanted.
CORE := $(VENV)/.installed$(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))
TOOLS := $(VENV)/.installed-dev$(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)
ifeq ($(UV),uv)
READY := $(BIN)/python
INSTALL := uv pip install --quiet --python $(BIN)/python
else
READY := $(BIN)/pip
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test slow slurm gpu faults lint format types check docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(TOOLS) ## make the virtual environment with all that developers need (the other targets do it too)

quickstart: $(CORE) ## everything once, in a few minutes: shards, pretraining, probes, report (installs the core only)
	@$(BIN)/foundation quickstart $(ARGS)

test: $(TOOLS) ## the unit tests
	@$(BIN)/pytest --numprocesses=auto $(ARGS)

slow: $(TOOLS) ## the tests that take longer
	@$(BIN)/pytest --numprocesses=auto -m 'slow and not slurm and not gpu and not network' $(ARGS)

slurm: $(TOOLS) ## the tests on a real SLURM cluster, which they bring up on this machine (Debian: munge slurm-wlm)
	@$(BIN)/pytest --numprocesses=2 -m 'slurm and not gpu and not network' $(ARGS)

faults: $(TOOLS) ## inject every fault and rewrite the table in docs/reliability.md
	@$(BIN)/pytest -m 'fault and not slurm and not gpu and not network' --fault-table=docs/reliability.md $(ARGS)

lint: $(TOOLS) ## style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(TOOLS) ## repair the style
	@$(BIN)/ruff check --fix-only . && $(BIN)/ruff format .

types: $(TOOLS) ## types of the library
	@$(BIN)/mypy

check: lint types test ## all of the above that a change must pass

gpu: $(TOOLS) ## check and measure this machine's GPU, at most 8 minutes (ARGS=--rehearse: the code alone, on a CPU)
	@$(BIN)/foundation bench gpu $(ARGS)

docs: $(TOOLS) ## rewrite the recipe reference from the types, and the page of the zoo from its cards
	@$(BIN)/python tools/recipe_reference.py
	@$(BIN)/python tools/zoo_page.py

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info

# A change of pyproject.toml or of the settings above installs again; nothing else does.
$(CORE): pyproject.toml Makefile | $(READY)
	$(call install,.$(if $(EXTRAS),[$(EXTRAS)]))
	@touch $(VENV)/.installed $@

$(TOOLS): pyproject.toml Makefile | $(READY)
	$(call install,.[dev$(if $(EXTRAS),$(comma)$(EXTRAS))])
	@touch $(VENV)/.installed $(CORE) $(VENV)/.installed-dev $@

$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null | grep '^Python' || echo none)."; \
	  echo "Name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
ifeq ($(UV),uv)
	uv venv --quiet --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' does not work here; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
endif

define install
@echo "installing foundation into $(VENV): torch and what it needs, up to 6 GB; minutes without a word the first time"
$(if $(TORCH_SPEC),$(INSTALL) $(TORCH_SPEC))
$(INSTALL) --editable '$(1)'
endef
