PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests mostly wait for brokers; each process has its own.
TEST_PROCESSES ?= 2

.PHONY: run test check bench prove schemas constraints clean

run: $(VENV)/.run
	$(BIN)/headwater up

test: $(VENV)/.test
	$(BIN)/pytest -m "not prove" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/headwater schemas check

prove: $(VENV)/.test
	$(BIN)/pytest -m prove --timeout=7200

bench: $(VENV)/.test
	$(BIN)/python -m tests.bench

schemas: $(VENV)/.run
	$(BIN)/python -m schemas.registry

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Each stamp installs more than the one before; a change of the files makes them anew.
$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test,check]"
	touch $@

# Resolves the whole set anew and pins it: names and versions only.
constraints:
	rm -rf .venv-constraints && $(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet ".[test,check]"
	.venv-constraints/bin/python -m pip freeze --exclude headwater > constraints.txt
	rm -rf .venv-constraints

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
