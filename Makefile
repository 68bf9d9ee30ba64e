# `make demo` and `make test` build the same .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 3
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo stack test lint types bench rescue clean

demo: .venv/.demo
	$(BIN)/trimtab demo

stack:
	$(PYTHON) deploy/stack.py

# Each file of tests is run by one of so many workers: one more than cores here, as many tests wait for a server. In
# their order, the long files come in the middle, and the workers end together.
test: lint types
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

types: .venv/.test
	$(BIN)/mypy

bench: .venv/.bench
	$(BIN)/python benchmarks/overhead.py

rescue: .venv/.bench
	$(BIN)/python benchmarks/rescue.py

.venv/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[demo]'
	touch $@

.venv/.test: .venv/.demo
	$(INSTALL) '.[test]'
	touch $@

.venv/.bench: .venv/.demo
	$(INSTALL) '.[bench]'
	touch $@

clean:
	rm -rf .venv
