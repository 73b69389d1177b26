# Thin names over the real tools: uv, ansible-playbook, molecule, pytest. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(CURDIR)/$(VENV)/bin
CACHE := $(or $(DASK_SITE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dask-site)
# Debian suite of the containerised cluster: bookworm has Slurm 22.05, trixie 24.11.
SUITE ?= bookworm
SUITES ?= bookworm trixie
# What molecule tests: `lifecycle` is what comes after the first rollout, to the last day.
SCENARIO ?= default
# Not the cluster of `make cluster`: a test removes its own.
TEST_CLUSTER ?= dask-site-test

export PATH := $(BIN):$(PATH)
# Where somebody has set it, each of thousands of processes would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' | column -t -s '|'

$(VENV)/.stamp: requirements/dev.txt pyproject.toml
	@echo "==> development environment in $(VENV), from requirements/dev.txt"
	@python3 -m venv --help >/dev/null 2>&1 && python3 -c 'import ensurepip' 2>/dev/null \
	  || (apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv)
	@test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync -q --require-hashes requirements/dev.txt
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: lock
lock: ## resolve the locked dependencies again
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --group dev pyproject.toml \
	  -o requirements/dev.txt --custom-compile-command "make lock" --upgrade
	uv pip compile -q --universal --generate-hashes --python-version 3.11 --group control pyproject.toml \
	  -c requirements/dev.txt -o requirements/control.txt --custom-compile-command "make lock"
	uv pip compile -q --universal --generate-hashes --python-version 3.11 pyproject.toml \
	  roles/dask_environment/files/requirements.in -o roles/dask_environment/files/requirements.txt \
	  --custom-compile-command "make lock" --upgrade

CLUSTER  ?= dask-site-$(SUITE)
PLAYBOOK  = SUITE=$(SUITE) CLUSTER=$(CLUSTER) $(BIN)/ansible-playbook -i inventories/demo
NODE     ?= login1
AS       ?= alice

.PHONY: cluster images cluster-shell clean clean-images
cluster: $(VENV)/.stamp ## a Slurm cluster in containers, kept when it stands (SUITE=bookworm or trixie)
	@echo "==> cluster $(CLUSTER): a minute the first time, seconds when it stands"
	@$(PLAYBOOK) molecule/shared/cluster.yml
	@echo "==> cluster $(CLUSTER) stands: make cluster-shell SUITE=$(SUITE)"

images: $(VENV)/.stamp ## only the images of the cluster
	@$(PLAYBOOK) molecule/shared/host.yml

cluster-shell: ## a shell there (NODE=login1 AS=alice)
	@ssh -t -F $(CACHE)/clusters/$(CLUSTER)/ssh_config $(AS)@$(NODE)

clean: ## remove every cluster: containers, networks, volumes, keys; images stay
	@echo "==> removing all clusters (images stay: make clean-images)"
	@molecule/shared/clean.sh $(CACHE)

clean-images: clean ## remove the images too
	@podman images -q --filter label=dask-site=image | sort -u | xargs -r podman rmi -f >/dev/null

.PHONY: test test-quick molecule bench bench-pools
# Programs that tests hold this project against; see there.
.PHONY: test-tools
test-tools:
	@tests/install-tools

test: lint test-tools ## everything: lint, types, all tests, the rollout and real jobs on both Slurm versions
	@tests/run $(CACHE) $(TEST_CLUSTER) $(SUITES)

test-quick: lint ## lint, types, and the quick tests that need no container
	@echo "==> quick tests without containers"
	env --default-signal pytest -m "not slow"

molecule: $(VENV)/.stamp test-tools ## a molecule scenario on Debian 12 and 13: rollout, idempotence, real jobs (SUITES, SCENARIO)
	@for suite in $(SUITES); do \
	  $(MAKE) --no-print-directory images wheelhouse SUITE=$$suite || exit 1; \
	done
	@SCENARIO=$(SCENARIO) molecule/shared/test.sh $(CACHE) $(TEST_CLUSTER) $(SUITES)

bench: cluster rollout ## the figures of bench/README.md, on the cluster of `make cluster`
	@$(PLAYBOOK) bench/bench.yml

bench-pools: cluster rollout ## the figures of pools that follow the work: an hour and a half
	@$(BIN)/python bench/pools/overhead.py --pairs 3
	@$(BIN)/python bench/pools/thousand_jobs.py
	@$(PLAYBOOK) bench/pools.yml

.PHONY: lint
lint: $(VENV)/.stamp ## style, types, playbooks; offline
	ruff check --no-cache
	ruff format --check
	mypy
	yamllint --strict .
	ansible-lint
	python docs/make_reference.py --check

.PHONY: docs
docs: $(VENV)/.stamp ## docs/reference.md from the code
	python docs/make_reference.py

# Python and glibc of the suite: the wheels are for the nodes, not for this machine
PYTHON_bookworm := 3.11
PYTHON_trixie   := 3.13
GLIBC_bookworm  := 36
GLIBC_trixie    := 41

.PHONY: bundle wheelhouse rollout acceptance
bundle: $(VENV)/.stamp ## one file for a rollout without a network (SUITES; SPACK="--spack FILE ..."): dist/
	@$(BIN)/python bundle/make.py dist --cache $(CACHE) $(SPACK) \
	  $(foreach suite,$(SUITES),--target $(PYTHON_$(suite)):$(GLIBC_$(suite)))

wheelhouse: $(VENV)/.stamp ## the locked wheels for the nodes, downloaded once (SUITE)
	@$(BIN)/python roles/dask_environment/files/wheelhouse.py $(CACHE)/wheelhouse \
	  --python $(PYTHON_$(SUITE)) --glibc $(GLIBC_$(SUITE))

rollout: $(VENV)/.stamp wheelhouse ## the whole rollout on the cluster of `make cluster` (SUITE)
	@$(PLAYBOOK) site.yml

acceptance: $(VENV)/.stamp ## a real job in every pool, as an ordinary user; report in out/acceptance
	@$(PLAYBOOK) playbooks/acceptance.yml

.PHONY: demo demo-laptop
demo: ## everything from nothing: cluster, rollout, a user's job on three pools (root; some minutes, later one or two)
	@test "$$(id -u)" = 0 || { echo "make demo runs containers and needs root; make demo-laptop does not"; exit 1; }
	@$(MAKE) -s --no-print-directory $(VENV)/.stamp
	@ANSIBLE_DISPLAY_OK_HOSTS=no $(MAKE) --no-print-directory cluster
	@echo "==> rollout: module, environment, pools, and a test job in each; minutes the first time"
	@ANSIBLE_DISPLAY_OK_HOSTS=no $(MAKE) --no-print-directory rollout
	@examples/fetch-data $(CACHE)/data
	@examples/run-demo $(CACHE)/clusters/$(CLUSTER)/ssh_config $(CACHE)/data/trinidad.nc out/demo

demo-laptop: $(VENV)/.stamp ## the same script on processes of this machine: no container, no root
	@examples/fetch-data $(CACHE)/data
	@mkdir -p out/laptop
	@echo "==> winter_sun.py on local processes: about a minute"
	@DASK_CONFIG=inventories/laptop/group_vars/all/site.yml $(BIN)/python examples/winter_sun.py \
	  $(CACHE)/data/trinidad.nc out/laptop/winter_sun.png
