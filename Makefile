# Everything runs in .venv; a second run skips what is done. PYTHON=/path/to/python picks another interpreter.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SPREAD := --numprocesses auto --dist loadfile --no-loadscope-reorder
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

.PHONY: help setup check test coverage exhaustive torchrec dist demo bench docs clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

setup: .venv/dev.stamp ## Make .venv with the pinned packages, test tools included
check: .venv/dev.stamp .typecheck/recsys ## Format, lint, spelling and strict types
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/typos && cd .typecheck && ../$(BIN)/mypy --config-file ../pyproject.toml -p recsys
test: check ## Everything in check, then the whole test suite, a worker a core
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SPREAD)
coverage: .venv/dev.stamp ## The suite once more, a third slower, with the share of lines it reaches
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SPREAD) --cov --cov-report= && $(BIN)/coverage report --format=total | sed 's/.*/&% of the lines of the library are reached by the tests/'
exhaustive: .venv/dev.stamp ## The tests that make test leaves out: the same properties over more kinds and more draws
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto -m exhaustive
torchrec: .venv-torchrec/torchrec.stamp ## Make .venv-torchrec, where runtime.engine = "torchrec" works, and run its tests there
	OMP_NUM_THREADS=1 .venv-torchrec/bin/pytest -m torchrec
dist: .venv/dev.stamp ## Build the source archive and, from it, the wheel into dist/
	rm -rf build dist *.egg-info && $(BIN)/pyproject-build --no-isolation
demo: .venv/core.stamp ## Train and evaluate on the embedded world, and recommend ten items
	$(BIN)/recsys demo
bench: .venv/bench.stamp ## Measure training throughput
	$(BIN)/python benchmarks/speed/train_throughput.py
docs: .venv/dev.stamp ## Write docs/config.md, docs/api.md and docs/openapi.json from the classes and docstrings
	$(BIN)/python docs/document_config.py && $(BIN)/python docs/document_api.py && $(BIN)/python docs/document_http.py
clean: ## Remove .venv, caches and build output; runs/ stays
	rm -rf .venv .venv-torchrec .typecheck .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info

# Every version is named, and none is looked for: see requirements/torchrec.txt.
.venv-torchrec/torchrec.stamp: pyproject.toml constraints.txt requirements/torchrec.txt
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11, 3.12 or 3.13; name one: make torchrec PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv-torchrec
	.venv-torchrec/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt setuptools
	.venv-torchrec/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	.venv-torchrec/bin/python -m pip install -qq --disable-pip-version-check --no-deps --requirement requirements/torchrec.txt
	touch $@
.venv/venv.stamp:
	@test -n "$(PYTHON)" || { echo "error: found no Python 3.11, 3.12 or 3.13; install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv && touch $@
.venv/core.stamp: .venv/venv.stamp pyproject.toml constraints.txt
	$(INSTALL) setuptools && $(INSTALL) --no-build-isolation --editable '.[cpu,serve]' && touch $@
.venv/dev.stamp: .venv/core.stamp
	$(INSTALL) --no-build-isolation --editable '.[dev]' && touch $@
.venv/bench.stamp: .venv/dev.stamp
	$(INSTALL) --no-build-isolation --editable '.[bench]' && touch $@
.typecheck/recsys:
	mkdir -p .typecheck && ln -sfn .. $@
