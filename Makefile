# SPDX-License-Identifier: Apache-2.0
# make demo: measure examples/quickstart.yaml on this machine.   make test: all tests and checks.
# Both set up what they need in .venv first. `make help` lists the rest.

PY := .venv/bin/python
DEMO_HOME ?= .farm/demo
IMAGES_DIR ?= .farm/images
ARM64_DIR ?= .farm/arm64
TEST_PROCESSES ?= 3
WITH_LAB := FARM_TEST_DEPLOY=1 PATH=$$PATH:$(CURDIR)/.venv-deploy/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of processes of the tests read the same modules, which are compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo setup-tensorflow test test-together test-alone test-images lint-images test-arm64 test-deploy lab lint-deploy chaos check fuzz fix setup setup-dev clean

help:            ## List the targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup      ## Set up, then measure examples/quickstart.yaml on this machine
	.venv/bin/farm --home $(DEMO_HOME) run examples/quickstart.yaml

test:            ## Set up, then run the checks and all tests; PYTEST_ARGS chooses among them. DEPLOY=1: test-deploy's, too
	$(MAKE) --no-print-directory -j2 setup-dev $(if $(DEPLOY),.venv-deploy/.ready)
	$(MAKE) --no-print-directory -j2 --output-sync=target check $(if $(DEPLOY),lint-deploy lab)
ifdef PYTEST_ARGS
	$(PY) -m pytest -m 'not images and not deploy' $(PYTEST_ARGS)
else
	$(MAKE) --no-print-directory --keep-going test-together test-alone
endif

# A file goes to one process as a whole. Many wait more than they compute, so there are more processes than processors.
test-together: setup-dev $(if $(DEPLOY),lab) ## The tests that a busy machine does not change, in TEST_PROCESSES processes (3)
	$(if $(DEPLOY),$(WITH_LAB)) $(PY) -m pytest -m 'not alone and not images $(if $(DEPLOY),,and not deploy)' \
	  -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations=25

# Only the files that have such tests are read: to collect all 5000 takes longer than most of them.
test-alone: setup-dev ## The tests that judge times and noise, one after the other
	$(PY) -m pytest -m alone --durations=10 $$(grep -rl --include='test_*.py' 'mark\.alone' tests | sort)

test-images: setup-dev ## Build images on BASE, run sweeps through compose; starts a Docker engine where none answers (root)
	tests/containers/engine.sh $(IMAGES_DIR) $(PY) -m pytest tests/containers -s $(PYTEST_ARGS)

test-arm64: setup    ## Resolve a Jetson's wheels, install and run a farm on an emulated aarch64 host (root, Debian)
	PYTHON=$(PY) tests/arm64/host.sh $(ARM64_DIR)

test-deploy: setup-dev lint-deploy lab ## Deploy on three hosts made of systemd-nspawn, hurt, upgrade and remove them (root, Debian)
	$(WITH_LAB) $(PY) -m pytest tests/deploy --durations=12 -q $(PYTEST_ARGS)

lab: .venv-deploy/.ready # what the hosts are made with
	tools/setup.sh lab

lint-deploy: .venv-deploy/.ready ## yamllint, ansible-lint (production profile, syntax of the plays), shellcheck
	.venv-deploy/bin/yamllint deploy tests/deploy
	.venv-deploy/bin/shellcheck tools/*.sh tests/deploy/*.sh tests/containers/*.sh tests/arm64/*.sh docker/install.sh
	cd deploy/ansible && PATH=$(CURDIR)/.venv-deploy/bin:$$PATH ansible-lint --offline -q

.venv-deploy/.ready: tools/setup.sh
	tools/setup.sh deploy

chaos: setup-dev ## Hurt a farm FAULTS times (default 40), from SEED if given, and print what came of it
	$(PY) -m tests.chaos --faults $(or $(FAULTS),40) $(if $(SEED),--seed $(SEED))

check: setup-dev lint-images ## ruff, mypy --strict, import-linter, hadolint, docker compose config
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

lint-images: setup-dev ## hadolint; docker compose config, where that plugin is
	.venv/bin/hadolint docker/*.Dockerfile
	$(PY) -m pytest tests/containers/test_files.py -q -k compose_accepts -rs

fuzz: setup-dev  ## Fuzz all that is read from outside: make fuzz INPUTS=10000
	INPUTS=$(or $(INPUTS),10000) $(PY) -m pytest tests/fuzz -q $(PYTEST_ARGS)

fix: setup-dev   ## Format, and mend what ruff can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

setup-tensorflow: .venv-tensorflow/.ready ## Make a stack with TensorFlow for CPUs in .venv-tensorflow

.venv-tensorflow/.ready: tools/setup.sh
	tools/setup.sh tensorflow

setup: .venv/.ready-cpu

setup-dev: .venv/.ready-dev

.venv/.ready-cpu: pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh cpu

.venv/.ready-dev: pyproject.toml constraints.txt tools/setup.sh
	tools/setup.sh dev

clean:           ## Remove .venv, caches and the demo's farm
	rm -rf .venv .venv-deploy .venv-tensorflow .farm .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
