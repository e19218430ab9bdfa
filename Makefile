# make demo   set up, then run the main job on an embedded PostgreSQL
# make test   set up, then run the whole suite against real servers
# make quick  the tests that a change is most likely to break, in under three minutes
# make lint   formatting, lint and types
# make bench  measure the WAL path beside other tools, and write benchmarks/results/wal.md;
#             make bench-drill: restore drills, and benchmarks/results/drill.md
#
# As root everything runs as an unprivileged account, because PostgreSQL refuses to run as root. That account must
# be able to enter the virtual environment: where it could not enter this directory (a clone below /root, say), the
# environment is made in /opt and .venv is a link to it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= $(if $(wildcard /usr/bin/python3),/usr/bin/python3,python3)
UV_VERSION := 0.13.9
HERE := $(CURDIR)
ROOT := $(shell [ "$$(id -u)" = 0 ] && echo yes)
ACCOUNT := $(shell getent passwd postgres >/dev/null && echo postgres || echo nobody)
GROUP := $(shell id -gn $(ACCOUNT) 2>/dev/null)
AS := $(if $(ROOT),setpriv --reuid=$(ACCOUNT) --regid=$(GROUP) --clear-groups,)
REACHABLE := $(if $(ROOT),$(shell $(AS) test -x '$(HERE)' -a -r '$(HERE)' && echo yes),yes)
VENV := $(if $(REACHABLE),.venv,/opt/pgproof-venv-$(shell echo -n '$(HERE)' | sha256sum | cut -c1-12))
BIN := $(VENV)/bin
SOURCES := $(shell find pgproof tasks flows deployments -name '*.py' -o -name '*.sql') prefect.yaml pyproject.toml
WORKERS ?= 4
BASE ?= HEAD
GROUPS := /sys/fs/cgroup/cpuacct/pgproof-tests
LOCK := --universal --generate-hashes --no-emit-index-url --no-header -q
PYTEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup demo test test-unprivileged test-root quick profile screenshots lint bench bench-drill format lock clean

help:
	@sed -n '1,6s/^# //p' Makefile

$(VENV)/.locked: requirements.lock
	@if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
	  if [ -n "$(ROOT)" ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
	  else echo 'python3-venv is missing: sudo apt-get install python3-venv' >&2; exit 1; fi; fi
	@if [ ! -x $(BIN)/python ]; then rm -rf .venv $(VENV); $(PYTHON) -m venv $(VENV); fi
	@if [ ! -e .venv ]; then ln -s $(VENV) .venv; fi
	$(BIN)/pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements.lock
	touch $@

$(VENV)/.installed: $(VENV)/.locked $(SOURCES)
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --reinstall-package pgproof $(if $(REACHABLE),-e .,.)
	touch $@

setup: $(VENV)/.installed

demo: setup
	@$(BIN)/pgproof demo

# The suite runs from a copy of the tests where the unprivileged account cannot enter this directory. uv compiles
# nothing, and the account may not write here: without a place for bytecode each of thousands of processes would compile.
# That place holds no columns for tracebacks: an interpreter of Prefect reads the rest in a tenth less.
test: setup
	@$(if $(ROOT),root=$$(mktemp); $(MAKE) --no-print-directory test-root >"$$root" 2>&1 & pid=$$!;) \
	failed=0; $(MAKE) --no-print-directory test-unprivileged || failed=1; \
	$(if $(ROOT),wait $$pid || failed=1; cat "$$root"; rm "$$root";) exit $$failed

test-unprivileged: setup
	@home=$$(mktemp -d /tmp/pgproof-home-XXXXXX); place='$(HERE)'; \
	trap 'rm -rf "$$home"' EXIT; \
	if [ -z "$(REACHABLE)" ]; then place=$$home/project; mkdir $$place; \
	  cp -r pgproof tasks flows deployments tests docs benchmarks README.md CHANGELOG.md LICENSE prefect.yaml pyproject.toml Makefile .gitignore .ci requirements.lock requirements-worker.lock requirements-engine.lock Dockerfile .dockerignore $$place/; fi; \
	python=$(abspath $(BIN))/python; bytecode=$(abspath $(VENV))/bytecode-short; mkdir -p $$bytecode; \
	$(if $(ROOT),chown -R $(ACCOUNT) "$$home" $$bytecode;) \
	cd $$place && $(AS) env -u PYTHONDONTWRITEBYTECODE HOME=$$home PYTHONPYCACHEPREFIX=$$bytecode PYTHONNODEBUGRANGES=1 \
	  HYPOTHESIS_STORAGE_DIRECTORY=$$home/hypothesis \
	  $$python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder -m 'not slow and not as_root' $(PYTEST_ARGS)

test-root: setup
	@PYTHONDONTWRITEBYTECODE=1 $(BIN)/python -m pytest -m as_root $(PYTEST_ARGS)

# What a change is most likely to break, as far as three minutes go; BASE is the commit to compare with.
quick: setup
	@$(MAKE) --no-print-directory test-unprivileged PYTEST_ARGS="$$($(BIN)/python -m tests.quick $(BASE) | tr '\n' ' ') $(PYTEST_ARGS)"

# The suite with its CPU counted by file, fixture and test; tests/README.md says how to read it. As root.
profile: setup
	@mkdir -p $(GROUPS); chown $(ACCOUNT) $(GROUPS); place=$$(mktemp -d /tmp/pgproof-profile-XXXXXX); chown $(ACCOUNT) $$place; \
	failed=0; PGPROOF_CPU_PROFILE=$$place $(MAKE) --no-print-directory test-unprivileged PYTEST_ARGS="-p tests.cpu $(PYTEST_ARGS)" || failed=1; \
	$(BIN)/python -m tests.cpu $$place; rmdir $(GROUPS)/$$(basename $$place)-* || true; rm -rf $$place; exit $$failed

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# As root it drops to an unprivileged account by itself, after installing what it measures. See benchmarks/README.md.
bench: setup
	@$(BIN)/python -m benchmarks.wal --write $(BENCH_ARGS)

bench-drill: setup
	@$(BIN)/python -m benchmarks.drill --write $(BENCH_ARGS)

# The browser tests, which put their screenshots into docs/images as well; Chromium must be installed.
screenshots: setup
	@pictures=$$(mktemp -d /tmp/pgproof-pictures-XXXXXX); $(if $(ROOT),chown $(ACCOUNT) "$$pictures";) \
	PGPROOF_SCREENSHOTS=$$pictures $(MAKE) --no-print-directory test-unprivileged PYTEST_ARGS=tests/ui WORKERS=1; \
	cp "$$pictures"/*.png docs/images/; rm -rf "$$pictures"

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	$(BIN)/uv pip compile pyproject.toml --all-extras $(LOCK) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra prefect $(LOCK) -c requirements.lock -o requirements-worker.lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK) -c requirements.lock -o requirements-engine.lock

clean:
	rm -rf $(VENV) .venv
