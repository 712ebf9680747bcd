# `make run` and `make test` are all that a newcomer needs; `make help` lists the rest.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEER := local/nsps_local/bench/peer

.DEFAULT_GOAL := help
.PHONY: help run demo test lint types bench scoreboard clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(READY)  ## start the whole system on this machine and play a scenario
	@$(BIN)/nsps up --scenario

demo: $(READY)  ## one subscriber's life through every real system that is installed here
	@$(BIN)/python -m nsps_local.demo

test: $(READY)  ## install what the tests need and run every one of them
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(READY)  ## style, and whether the documents that are made are up to date
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python -m infra.documents --check

types: $(READY)  ## strict types
	@$(BIN)/mypy

bench: $(READY) $(PEER)/.venv/.ready  ## measure: pace, latency, memory, beside a peer; writes docs/performance.md
	@$(BIN)/python -m nsps_local.bench --page

scoreboard: $(READY)  ## measure and check everything, and write docs/scoreboard.md; LONG=--long for the long run
	@$(BIN)/python -m nsps_local.scoreboard $(LONG)

clean:  ## forget the virtual environment and the local state
	rm -rf .venv .nsps

$(PEER)/.venv/.ready: $(PEER)/requirements.txt
	@$(PYTHON) -m venv $(PEER)/.venv
	@$(PEER)/.venv/bin/python -m pip install -qq --disable-pip-version-check -r $<
	@touch $@

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "NSPS needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing). Name another: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Making .venv and installing (about a minute, once) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt -e .
	@touch $(READY)
