# `make demo` and `make test` build the same .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 4
# pip would compile with one core. Some packages bring files that are no Python of this version, which is no matter.
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt \
	--editable '.[$(1)]' && { $(BIN)/python -m compileall -qq -j 0 .venv/lib || true; }

.PHONY: demo stack test lint types bench rescue clean

demo: .venv/.demo
	$(BIN)/trimtab demo

stack:
	$(PYTHON) deploy/stack.py

# Each file of tests is run by one of so many workers: more than there are cores, as many tests wait for a server. In
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
	$(call install,demo)
	touch $@

.venv/.test: .venv/.demo
	$(call install,test)
	touch $@

.venv/.bench: .venv/.demo
	$(call install,bench)
	touch $@

clean:
	rm -rf .venv
