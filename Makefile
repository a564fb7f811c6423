# Everything WFR needs lives in .venv; a second call reuses it, a changed lock file rebuilds it.
PYTHON ?= python3
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/cpu.lock
PACKAGES := wfr actors learner cluster benchmarks
TORCH := $(shell sed -n 's/^torch==//p' $(LOCK))
PIP := $(BIN)/python -m pip --disable-pip-version-check
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

# A stamp's name holds a checksum of what it was made from: contents count, not times.
LOCKED := $(VENV)/.locked-$(shell (cat $(LOCK); pwd) | cksum | tr ' ' -)
READY := $(VENV)/.ready-$(shell cat setup.cfg pyproject.toml | cksum | tr ' ' -)

define NO_PYTHON
WFR needs Python 3.11 or newer with the venv module, and '$(PYTHON)' is not one.
Remedy: make PYTHON=python3.12 (any newer interpreter); on Debian or Ubuntu also install python3-venv.
endef

define NO_TORCH
pip finds no torch==$(TORCH), the build without CUDA, in the places it looks.
Remedy: say where PyTorch's CPU wheels are, and call make again:
    make env TORCH_INDEX=<address of PyTorch's CPU wheels>
The address stands on pytorch.org/get-started (choose Pip and CPU). A directory of wheels works
too: PIP_FIND_LINKS=<directory> make env. Nothing else was downloaded.
endef
export NO_PYTHON NO_TORCH

# About a version of mkdocs that is not used here.
export NO_MKDOCS_2_WARNING := 1

# The tests start many processes, which are slow to start where nothing of them is compiled before.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help quickstart test env unit soak lint docs bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

quickstart: env  ## train the embedded director from nothing (no GPU, no network, no keys)
	$(BIN)/wfr train cluster/configs/quickstart.yaml --overwrite

test: unit lint  ## lint, types and every test but the long ones (under 15 minutes on 2 cores)
	$(BIN)/python -m pytest -m "engine and not soak"

unit: env  ## the tests that need no engine (under 90 seconds)
	$(BIN)/python -m pytest -n 2 -m "not engine and not soak"

soak: env  ## the long chaos, soak and study checks (under 40 minutes)
	$(BIN)/python -m pytest -m soak

lint: env  ## ruff, mypy, and whether the documentation builds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) docs requirements
	$(BIN)/mkdocs build --strict --quiet

docs: env  ## the documentation as a site, in build/site
	@$(BIN)/mkdocs build --strict --quiet
	@echo build/site/index.html

bench: env  ## the benchmarks that fit a CPU; NAME="buffer weights" for some
	$(BIN)/python -m benchmarks $(NAME)

env: $(LOCKED) $(READY)  ## just the environment

$(LOCKED):
	@$(PYTHON) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| { echo "$$NO_PYTHON" >&2; exit 1; }
	@echo "environment: $(VENV) from $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear $(VENV)
	@echo "environment: looking for torch==$(TORCH)"
	@$(PIP) install -qq --dry-run --no-deps $(INDEX) "torch==$(TORCH)" \
		|| { echo "$$NO_TORCH" >&2; exit 1; }
	@echo "environment: installing $$(grep -c == $(LOCK)) locked packages (minutes)"
	@$(PIP) install -qq --no-deps $(INDEX) --requirement $(LOCK)
	@touch $@

$(READY): $(LOCKED)
	@echo "environment: installing wfr in place"
	@rm -f $(VENV)/.ready-*
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

clean:  ## remove the environment, caches and build leftovers; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
