# `make demo` and `make test` build the same .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
PROGRAMS := tests/cli tests/docs tests/loops tests/ranks# which start one process after the other, and wait for it
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: demo stack test lint types bench rescue clean

demo: .venv/.demo
	$(BIN)/trimtab demo

stack:
	$(PYTHON) deploy/stack.py

# Two halves at once, of about the same length: the second is shown when both are over. Either fails the build.
test: lint types
	@$(BIN)/python -m pytest $(PROGRAMS) >.venv/programs.log 2>&1 & programs=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(PROGRAMS)); rooms=$$?; \
	wait $$programs; programs=$$?; cat .venv/programs.log; test $$rooms = 0 -a $$programs = 0

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
