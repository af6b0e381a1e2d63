# Everything a developer does, by name. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
NODE_CLIENTS := tests/conformance/node

# The official SDKs sit idle for seconds between polls, so a few more workers than processors
# finish sooner.
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$(( n < 3 ? 6 : n )))
PYTEST_FLAGS ?=

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' \
		$(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: .venv/.ready $(NODE_CLIENTS)/node_modules/.ready .venv/.engine ## Install what the project and its tests need

.PHONY: check
check: .venv/.ready ## Check format, lint, types and import rules
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test
test: setup ## Set up and run every test
	scripts/test $(WORKERS) $(PYTEST_FLAGS)

.PHONY: demo
demo: .venv/.ready .venv/.engine ## Set up and show the main job: devices provisioned, modules deployed
	PYTHONPATH=tests $(BIN)/python -m support.demo_engine

.PHONY: bench
bench: .venv/.ready ## Set up and measure, beside peers where they are installed
	scripts/setup peers
	$(BIN)/python -m benchmarks

.PHONY: clean
clean: ## Remove what setup, tests and benchmarks made
	rm -rf .venv $(NODE_CLIENTS)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache dist build benchmarks/results/*.json
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: setting up again when nothing changed takes no time.
.venv/.ready: pyproject.toml requirements/constraints.txt requirements/undeclared.txt scripts/setup
	PYTHON=$(PYTHON) scripts/setup python
	@touch $@

$(NODE_CLIENTS)/node_modules/.ready: $(NODE_CLIENTS)/package.json \
		$(NODE_CLIENTS)/package-lock.json scripts/setup
	scripts/setup node
	@if [ -d $(@D) ]; then touch $@; fi

.venv/.engine: .venv/.ready tests/support/base_image.py tests/support/docker.py \
		tests/support/debian.py tests/support/machine.py
	scripts/setup engine
	@touch $@
