# The only commands a person has to know. Each sets up what it needs, and does nothing where nothing changed.

ifeq ($(filter output-sync,$(.FEATURES)),)
$(error GNU make 4.0 or newer is needed, this one says "$(MAKE_VERSION)"; Debian: apt-get install make, macOS: brew install make and use gmake)
endif

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test check bench chaos image image-claude image-if-engine lock clean

PY := .venv/bin/python

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## make .venv with the pinned packages (PYTHON= names an interpreter)
	@.ci/setup

setup-dev:
	@.ci/setup --dev

run: setup image-if-engine ## run the hub on this repository (ONCE=1: one pass, leave nothing running)
	@.venv/bin/reconciler run --allow-process-runtime $(if $(ONCE),--once)

test: setup-dev image-if-engine ## run all tests; says what was skipped and why (ARGS= goes to pytest)
	@$(PY) -m pytest -ra $(ARGS)

check: setup-dev ## format, lint, types, import directions, policies, schemas
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m mypy .ci/setup.py images/build.py images/debian_base.py
	.venv/bin/lint-imports
	.venv/bin/reconciler validate .
	.venv/bin/reconciler schemas --check

bench: setup-dev image-if-engine ## measure side by side, each figure against its floor or a peer
	@$(PY) -m bench $(ARGS)

chaos: setup-dev image-if-engine ## faults against a fleet at work (N= how many, SEED= the same ones again)
	@$(PY) -m tests.chaos $(if $(N),--faults $(N)) $(if $(SEED),--seed $(SEED)) $(ARGS)

image: setup ## build the agents' images (BASE= names a base image, FRESH=1 builds all anew)
	@images/build $(if $(BASE),--base '$(BASE)') $(if $(FRESH),--fresh)

image-claude: setup ## build agents/claude:1 too, with the Claude Code CLI (needs npm and its registry)
	@images/build --claude $(if $(BASE),--base '$(BASE)') $(if $(FRESH),--fresh)

image-if-engine: setup
	@images/build --if-engine $(if $(BASE),--base '$(BASE)')

lock: ## write the lock files anew from pyproject.toml (UPGRADE=1: newest allowed versions)
	@.ci/lock $(if $(UPGRADE),--upgrade)

clean: ## remove .venv, build products and caches; never the hub's data
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
