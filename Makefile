# Every target sets up what it needs first; PYTHON=python3.12 picks another interpreter, and VENV=.venv-3.12 keeps it in
# an environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help venv demo test check fix bench bench-instructions bench-growth clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s  %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

venv: ## set up .venv (the others do it by themselves)
	@$(PYTHON) scripts/bootstrap.py $(VENV)

demo: venv ## run the example on real webhook events
	@$(BIN)/python examples/demo.py

test: venv ## run all tests, side by side on all cores, and show the coverage
	@$(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered

# The cache of lint-imports forgets to look again when a module appears that others imported already.
check: venv ## lint, format, types, import direction, text
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy $(wildcard src examples typing_tests)
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/python scripts/check_text.py

fix: venv ## let ruff mend and format what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: venv ## measure, side by side with hand-written floors
	@$(BIN)/python -m bench

bench-instructions: venv ## count instructions per run (needs valgrind)
	@$(BIN)/python -m bench.instructions

bench-growth: venv ## how cost grows at 10 and 100 times the size
	@$(BIN)/python -m bench.growth

clean: ## remove the environment, caches and build products
	rm -rf .venv .venv-* .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
