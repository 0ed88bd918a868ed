# make repro: run the pipeline on what params.yaml names. make check: lint, types and the fast tests. make test: all tests.
# Each sets up .venv first.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# On a terminal pip shows what it downloads; a log would have a line for each of it.
INSTALL := $(BIN)/python -m pip install $$( [ -t 1 ] || echo --quiet ) --disable-pip-version-check --require-hashes --no-deps
# Parallel make would interleave two installations into one environment.
.NOTPARALLEL:
.PHONY: repro check test lint setup setup-dev ui promote lock FORCE

repro: setup
	@python -B -X pycache_prefix=/dev/null -m rfdetr_core check # which refuses bytecode in git, so it runs none
	@dvc repro
	@python -m rfdetr_core results

# Two workers, each with whole modules, whose fixtures are expensive; tests/conftest.py puts the longest modules first.
# A worker that crashes ends the run: in the place of one that is started anew, loadscope waits for ever.
PYTEST := python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --max-worker-restart=0

check: lint
	@$(PYTEST) -m "not slow"

test: lint
	@$(PYTEST)

lint: setup-dev
	@ruff check .
	@ruff format --check .
	@mypy

setup: .venv/.runtime .venv/.project
setup-dev: .venv/.dev .venv/.project

LOCKS := $(patsubst %,requirements/%.lock,numeric runtime report export documents)
.venv/.runtime: $(LOCKS)
	@command -v git >/dev/null || { echo "error: git is not installed; DVC needs it" >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) is not installed; install Python 3.11 or later, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "installing the locked packages into .venv (about 5 GB, minutes)"
	@$(INSTALL) $(LOCKS:%=-r %)
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.lock
	@$(INSTALL) -r requirements/dev.lock
	@touch $@

# Scripts anywhere import rfdetr_core, and rfdetr-dvc is a command. What is installed is a folder of links, so that the path which Python
# is given has this package alone: below the root, `tests`, `ci` and `data` would be importable from everywhere. Without "compat",
# setuptools installs an import hook: Python starts slower, and editors and type checkers do not find the package. The path file is made
# relative: in the locale C, Python does not start where one has a letter that is not ASCII. `pip install .` replaces the path by a copy of
# the code, and `pip uninstall` removes it: then it is installed anew.
LINKS := .venv/project
PATH_FILE := .venv/lib/*/site-packages/__editable__.rfdetr_dvc-*.pth
.venv/.project: .venv/.runtime pyproject.toml $(if $(wildcard $(PATH_FILE)),,FORCE)
	@mkdir -p $(LINKS)
	@ln -sfn ../../pyproject.toml ../../rfdetr_core $(LINKS)/
	@LC_ALL=C.UTF-8 $(BIN)/python -m pip --isolated install --quiet --no-index --no-deps --no-build-isolation \
	  --config-settings editable_mode=compat --editable $(LINKS)
	@for file in $(PATH_FILE); do echo ../../../project > "$$file"; done
	@touch $@

FORCE:

# MLflow's page over the local runs, on http://127.0.0.1:5000
ui: setup
	@python -m rfdetr_core ui

# Go on from the last result: set model.pretrain_weights to the file this makes.
promote:
	@python -m rfdetr_core promote

# Resolve the locks anew (needs uv on the path). Each keeps to the versions of those before it.
lock:
	@cd requirements && before= && for name in numeric runtime report export documents dev audit; do \
	  uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    $$name.in -c constraints.in $$before -o $$name.lock || exit 1; \
	  case $$name in numeric|runtime|report|export|documents) before="$$before -c $$name.lock";; esac; \
	done
