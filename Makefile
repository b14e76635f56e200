# Needs make and Python >= 3.11; everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

RUN = $(VENV)/bin/python -m

.PHONY: help install demo test test-slow benchmark coverage lint docs
.NOTPARALLEL:

help: ## List the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | awk -F'|' '{printf "make %-10s %s\n", $$1, $$2}'

install: $(VENV)/.test ## Install the package, editable, with all that the tests need

demo: install ## Train on the two-dimensional linear system; figures go to out/lds
	$(RUN) models.lds --out out/lds

test: install ## Run the fast tests
	$(RUN) pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-slow: install ## Run the tests that train to convergence
	$(RUN) pytest -n 2 -m slow $(PYTEST_ARGS)

benchmark: install ## Renew docs/benchmarks.md, in 90 minutes; ONLY="lds readme" some of it
	$(RUN) tests.benchmarks $(ONLY) $(if $(BASELINE),--baseline $(BASELINE))

coverage: install ## Run the fast tests and list the lines that they miss
	$(RUN) pytest -n 2 --dist loadfile --cov --cov-report=term-missing $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style, format and types
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

docs: $(VENV)/.docs ## Build the documentation in docs/_build/html
	$(RUN) sphinx -W --keep-going -b html docs docs/_build/html

# One stamp for each extra, so that nothing is installed twice.
$(VENV)/.test $(VENV)/.docs $(VENV)/.dev: setup.cfg pyproject.toml | $(VENV)/bin/pip
	$(RUN) pip install --quiet --disable-pip-version-check -e ".[$(@F:.%=%)]"
	@touch $@

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: `$(PYTHON)` is not Python 3.11 or newer; name one that is: `make demo PYTHON=python3.12`' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
