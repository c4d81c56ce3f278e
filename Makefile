# The tasks of Tallystick. They need Python 3.11 or newer, make and a package registry; all else is installed into .venv.

PYTHON   ?= python3
VENV     := .venv
BIN      := $(VENV)/bin
UV       := $(BIN)/uv
SOURCES  := src tests bench packaging
COMPILE   = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
            --custom-compile-command 'make lock' $(UPGRADE)

# Anything more for pytest: make test ARGS='-k ledger -x'
ARGS     ?=
# All tests run on all processors. What ARGS choose runs in one process, which starts sooner (WORKERS=logical: on all).
WORKERS  ?= $(if $(ARGS),0,logical)
PYTEST    = $(BIN)/pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=worksteal

# The books of this checkout. Another folder: make run TALLY_DATA_DIR=/elsewhere
TALLY_DATA_DIR ?= $(CURDIR)/.tally
run run-dev migrate psql: export TALLY_DATA_DIR := $(TALLY_DATA_DIR)

DOCKER   ?= docker
COMPOSE   = $(DOCKER) compose
VERSION   = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
DOCKER_USERNAME ?= $(or $(USER),tally)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # one environment, one database
.PHONY: docker-build build-docker docker-up docker-logs docker-down docker-clean docker-build-dev docker-run docker-run-dev
.PHONY: help install install-dev demo run run-dev migrate psql jwt test test-unit test-integration soak test-postgres15 \
        check check-all format format-check lint type-check security-scan pre-commit bench bench-full bench-ledger docs lock clean distclean

help: ## List the tasks
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use it

install: $(VENV)/.runtime ## Install Tallystick and what it runs with into .venv
demo: install ## Show it: a month of usage in, balances, a bill and a proof out
	@$(BIN)/tally demo
run: install ## Start the service, open to this machine, and keep its books in .tally
	@$(BIN)/tally serve --dev
migrate: install ## Bring the database to the newest schema
	@$(BIN)/tally migrate
psql: install ## Open a SQL prompt on the database
	@$(BIN)/tally psql

jwt: install ## Get a token from OIDC_ISSUER into jwt.txt (for CF_CLIENT_ID, CF_CLIENT_SECRET)
	@$(BIN)/tally token --output jwt.txt

##@ Run it in containers

docker-build: ## Build the image tallystick
	@$(DOCKER) build --tag tallystick --tag tallystick:$(VERSION) .
build-docker: ## Build the image DOCKER_USERNAME/tallystick (another name: DOCKER_USERNAME=...)
	@$(DOCKER) build --tag $(DOCKER_USERNAME)/tallystick:$(VERSION) .
docker-up: .env ## Start everything: service, worker, PostgreSQL, TigerBeetle, RabbitMQ and a mail catcher
	@$(COMPOSE) up --detach --build
docker-logs: .env ## Follow their logs
	@$(COMPOSE) logs --follow
docker-down: .env ## Stop everything, and keep what it knows
	@$(COMPOSE) down
docker-clean: .env ## Stop everything, and delete what it knows
	@$(COMPOSE) down --volumes --remove-orphans
docker-build-dev: ## Build the image in which a change of the source starts the service again
	@$(DOCKER) build --target dev --tag tallystick-dev .
docker-run: .env ## Run that in the place of the service
	@$(COMPOSE) --file compose.yaml --file packaging/compose.dev.yaml up --build service
docker-run-dev: docker-run

.env: # kept for good, as the volumes keep what its secrets open
	@$(PYTHON) packaging/new_env.py $@

##@ Work on it

install-dev: $(VENV)/.dev ## Install the tools to test and check it as well
run-dev: install-dev ## Start the service, and again after each change of its source
	@$(BIN)/watchmedo auto-restart --directory src --recursive --patterns '**/*.py;**/*.sql' \
	  --signal SIGTERM --kill-after 30 --debounce-interval 0.5 -- $(BIN)/tally serve --dev
format: install-dev ## Format the source and mend what can be mended by itself
	@$(BIN)/ruff check --fix --exit-zero --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
pre-commit: install-dev ## Have every commit checked from now on, and check all files once
	@$(BIN)/pre-commit install
	@$(BIN)/pre-commit run --all-files
lock: $(VENV)/.uv ## Write the lock files anew (UPGRADE=--upgrade for the newest versions)
	@$(COMPILE) --no-annotate requirements/uv.in --output-file requirements/uv.lock
	@$(COMPILE) pyproject.toml --output-file requirements/runtime.lock
	@$(COMPILE) pyproject.toml --group dev --constraint requirements/runtime.lock --output-file requirements/dev.lock
clean: ## Remove what the tools made (keeps .venv and the books)
	@rm -rf build dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache .schemathesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
distclean: clean ## Remove .venv as well
	@rm -rf $(VENV)

##@ Trust it

test: install-dev ## Run all tests
	@$(PYTEST) $(ARGS)
test-unit: install-dev ## Run the tests that need nothing outside the process
	@$(PYTEST) -m 'not integration' $(ARGS)
test-integration: install-dev ## Run the tests that need PostgreSQL or a server
	@$(PYTEST) -m integration $(ARGS)
soak: install-dev ## Drive all ledger engines with 100,000 random transfers (ARGS='--seed 7', TIGERBEETLE_BIN=...)
	@$(BIN)/python -m tests.ledger.soak $(ARGS)
test-postgres15: install-dev ## Run the tests of all rooms that have SQL on Debian's PostgreSQL 15
	@$(BIN)/python tests/database/postgres15.py -- $(PYTEST) -m database $(ARGS)
check: format-check lint type-check security-scan ## Check format, lint, types and secrets
check-all: check test ## Check, and run all tests
format-check: install-dev
	@$(BIN)/ruff format --check --quiet $(SOURCES) || { echo "Not formatted: run make format" >&2; exit 1; }
lint: install-dev ## Look for mistakes and bad habits
	@$(BIN)/ruff check --quiet $(SOURCES)
type-check: install-dev ## Check the types, strictly
	@$(BIN)/mypy --no-error-summary
security-scan: install-dev ## Look for unsafe calls, and for secrets in any file
	@$(BIN)/ruff check --quiet --select S src
	@git ls-files -z --cached --others --exclude-standard > $(VENV)/files
	@xargs -0 $(BIN)/detect-secrets-hook --no-verify --baseline .secrets.baseline < $(VENV)/files
bench: install-dev ## Measure its speed on this machine: one table, one JSON
	@$(BIN)/python -m bench
bench-full: install-dev ## The same on 20 million measurements (about 10 minutes, 8 GB of disk)
	@$(BIN)/python -m bench --full
bench-ledger: install-dev ## Measure the ledger's engines alone (TIGERBEETLE_BIN, PGLEDGER_DIR: beside others)
	@$(BIN)/python -m bench.ledger
docs: install-dev ## Build the documentation into site/
	@$(BIN)/mkdocs build --strict

# Each stamp is newer than all that it was made from: a second run has nothing to do.

$(VENV)/.uv: requirements/uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo \
	  "Tallystick needs Python 3.11 or newer, which '$(PYTHON)' is not. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	  "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

# Once there are development tools, `make demo` must not take them away again.
$(VENV)/.runtime: LOCK = $(if $(wildcard $(VENV)/.dev),dev,runtime)
$(VENV)/.dev: LOCK = dev
$(VENV)/.runtime: requirements/runtime.lock
$(VENV)/.dev: requirements/runtime.lock requirements/dev.lock
$(VENV)/.runtime $(VENV)/.dev: $(VENV)/.uv pyproject.toml
	@echo "Installing requirements/$(LOCK).lock"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/$(LOCK).lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@ $(VENV)/.runtime $(wildcard $(VENV)/.dev)
