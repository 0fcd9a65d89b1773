# `make help` lists the targets. Each does its own set-up: it needs only make and Python 3.11 or newer.

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST    := $(BIN)/python -m pytest
COMPILE    = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
             --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo run migrate test prove mutants check format lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## Create $(VENV) with everything pinned by hash

$(INSTALLED): requirements/bootstrap.txt requirements/dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "TradeVerdict needs Python 3.11 or newer; $(PYTHON) is not. Try: make PYTHON=python3.13 ..." >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation --editable . --editable ./client
	@touch $@

demo: setup ## Two decisions on real market data, without any key
	@AUTH=off $(BIN)/tradeverdict demo

run: setup ## Serve on 127.0.0.1:$(PORT) with an embedded database and no authentication
	@AUTH=off $(BIN)/tradeverdict serve --host 127.0.0.1 --port $(PORT)

migrate: setup ## Bring the database (DATABASE_URL, or the embedded one) up to date
	@$(BIN)/tradeverdict migrate

# On two cores: tests that mostly wait have the mark xdist_group("waits") and share one of three processes.
test: setup ## Run every test, with reduced example counts
	@$(PYTEST) -n 3 --dist loadgroup

prove: setup ## Run every test with full example counts; the evidence goes to docs/evidence/
	@PYTEST="$(PYTEST)" bench/prove.sh

mutants: setup ## Mutate gates and sizing; say which mutants survive unexplained (half an hour)
	@MUTMUT="$(BIN)/mutmut" bench/mutants.sh

check: setup ## Formatting, lint, types and import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Format the code and apply safe fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

lock: setup ## Compile requirements/ anew from pyproject.toml
	@$(COMPILE) --upgrade --group bootstrap -o requirements/bootstrap.txt
	@$(COMPILE) --upgrade pyproject.toml --extra local --group bootstrap --group dev -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra local -c requirements/dev.txt -o requirements/local.txt
	@$(COMPILE) pyproject.toml -c requirements/dev.txt -o requirements/service.txt
	@! grep -n '://' requirements/*.txt

clean: ## Remove the environment, caches and the embedded database
	rm -rf $(VENV) .data .coverage .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist mutants
	find app bench tests -name __pycache__ -type d -prune -exec rm -rf {} +
