# make demo needs Python 3.10 or newer with venv, nothing else; PYTHON=python3.12 chooses another one.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
# More options, as in: make demo ARGS="--bind 127.0.0.1:9001", make test ARGS="tests/unit -x"
ARGS ?=

.PHONY: help demo chat test load lint types clean

help:
	@echo "make demo   Redis, a server and a callee, and a first call"
	@echo "make chat   the chat of examples/, with a page"
	@echo "make test   all tests"
	@echo "make load   locust against a stack of its own, 15 seconds, with a report"
	@echo "make lint   ruff"
	@echo "make types  mypy"
	@echo "make clean  remove the virtual environment and caches"

demo: $(VENV)/.runs
	@$(BIN)/juggler demo $(ARGS)

chat: $(VENV)/.runs
	@$(BIN)/juggler demo examples.chat.callees:rpc --app examples.chat.app:application $(ARGS)

# In three processes, so that none grows old: thousands of sockets and processes leave their traces in one.
test: $(VENV)/.develops
ifeq ($(ARGS),)
	$(BIN)/python -m pytest --ignore tests/integration
	$(BIN)/python -m pytest tests/integration/test_[a-q]*.py
	$(BIN)/python -m pytest tests/integration/test_[r-z]*.py
else
	$(BIN)/python -m pytest $(ARGS)
endif

load: $(VENV)/.develops
	@$(BIN)/python -m loadtest.locust.run $(ARGS)

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.develops
	$(BIN)/mypy

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of dependencies, so that a second run starts at once.
$(VENV)/.runs: setup.cfg setup.py | $(BIN)/python
	$(PIP) install --editable '.[embedded]'
	@touch $@

$(VENV)/.develops: setup.cfg setup.py | $(BIN)/python
	$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.runs
