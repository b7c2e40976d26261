# Every target that needs the environment makes it first, once. Nothing here needs more than Python >= 3.11, git and make.
PYTHON   ?= python3
BIN      := .venv/bin
READY    := .venv/.ready
TYPED    := registry monitor gateway driftgate tests bench scripts
# Real models and data with expected outputs; tests that need them are skipped, with that reason, where they are not.
MATERIAL ?= ../shared/material
ifneq ($(wildcard $(MATERIAL)/.),)
export DRIFTGATE_TEST_MATERIAL ?= $(abspath $(MATERIAL))
endif
# Two processes: some tests start a server of their own, and a test that times something must not starve.
TEST     := $(BIN)/python -m pytest -n 2 --dist worksteal
VERSION   = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help setup tools demo test test-all lint fmt types bench bench-list docs docs-check lock image check release clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## make .venv from the lock file (done by every target that needs it)

$(READY): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Driftgate needs Python 3.11 or newer, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; echo 'no venv: on Debian, `apt install python3-venv`'; exit 1; }
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

tools:  ## unpack Prometheus, wrk and Chromium from Debian's packages into .tools/, without root
	@scripts/tools.sh

demo: $(READY)  ## real models, real traffic, a promotion and a rollback (at most 4 minutes)
	$(BIN)/driftgate demo $(DEMO)

test: $(READY)  ## every test but the slow ones
	$(TEST) -m "not slow" $(ARGS)

test-all: $(READY)  ## every test
	$(TEST) $(ARGS)

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fmt: $(READY)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy, strict, tests too
	$(BIN)/mypy --explicit-package-bases $(TYPED)

SCENARIO ?= hot-path
bench: $(READY)  ## what serving costs; SCENARIO="hot-path image", or all; `make bench-list` names them
	$(BIN)/python -m bench run $(SCENARIO) $(ARGS)

bench-list: $(READY)  ## the scenarios of make bench
	$(BIN)/python -m bench list

docs: $(READY)  ## write docs/reference/ from the code
	$(BIN)/python -m scripts.docs

docs-check: $(READY)  ## fail, showing the difference, when docs/reference/ is not what the code says
	$(BIN)/python -m scripts.docs --check

UV       := uv pip compile pyproject.toml --universal --generate-hashes --no-header --no-emit-index-url
lock:  ## resolve the lock files anew (needs uv): dev.lock for all of us, run.lock for the image, a part of it
	$(UV) --extra demo --extra grpc --extra report --group dev --upgrade --output-file requirements/dev.lock
	echo setuptools | $(UV) --extra grpc - --no-annotate --constraint requirements/dev.lock --output-file requirements/run.lock

image:  ## build the container image (needs docker or a program that reads like it)
	$${DOCKER:-docker} build --file deploy/Dockerfile --tag driftgate:$(VERSION) .

check: lint types test docs-check  ## everything that a commit must pass

release: check  ## refuse unless version and changelog agree and the tree is clean; then build dist/
	@git diff --quiet HEAD || { echo 'release: the working tree has changes'; exit 1; }
	@grep -q '^## \[$(VERSION)\] - [0-9]' CHANGELOG.md || { echo 'release: CHANGELOG.md has no dated section for $(VERSION)'; exit 1; }
	@test -z "$$(sed -n '/^## \[Unreleased\]/,/^## \[[0-9]/p' CHANGELOG.md | grep '^- ')" || { echo 'release: CHANGELOG.md still has lines under Unreleased'; exit 1; }
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@echo 'dist/ holds the wheel; tag it: git tag -a v$(VERSION)'

clean:  ## remove what make made, but not .venv and .tools
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache
