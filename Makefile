# make run    everything on this machine, with a demo gateway and a call to paste
# make test   all checks and tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPOSE := docker compose

.PHONY: help run test services docs lock up down clean

help:
	@echo "make run       serve all planes here, with a demo gateway and a call to paste"
	@echo "make test      linters, type checks, import rules and tests"
	@echo "make services  install PostgreSQL, Redis, Kafka and a browser for the tests"
	@echo "make docs      write docs/configuration.md from the settings"
	@echo "make lock      resolve the dependencies anew"
	@echo "make up        build and start the containers (PostgreSQL, Redis, admin, proxy, mcp)"

run: $(VENV)/.installed
	@$(BIN)/trustgate dev

test: $(VENV)/.installed-dev
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash ops/check.sh

services:
	@bash ops/services/install.sh

docs: $(VENV)/.installed
	$(BIN)/python -m trustgate.settings.reference > docs/configuration.md

lock: $(VENV)/.installed-dev
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -q uv
	$(BIN)/python -m uv pip compile pyproject.toml --upgrade --generate-hashes --no-annotate --no-header -q -o requirements.lock
	$(BIN)/python -m uv pip compile pyproject.toml --upgrade --extra dev -c requirements.lock --generate-hashes --no-annotate --no-header -q -o requirements-dev.lock

up: .env
	$(COMPOSE) --env-file .env -f ops/docker-compose.yaml -f ops/docker-compose.api.yaml up -d --build

down:
	$(COMPOSE) --env-file .env -f ops/docker-compose.yaml -f ops/docker-compose.api.yaml down

.env:
	@bash ops/make-env.sh

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("TrustGate needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing (a minute or so, the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.installed-dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	@echo "installing, with the tools for tests (a few minutes, the first time)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@ $(VENV)/.installed
