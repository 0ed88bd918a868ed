# make repro: run the pipeline that params.yaml configures. make check: lint, types and the fast tests. make test: all tests.
# Each of them first installs .venv.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# On a terminal pip shows its progress. Elsewhere it is quiet, since a log would get a line for each package.
INSTALL := $(BIN)/python -m pip install $$( [ -t 1 ] || echo --quiet ) --disable-pip-version-check --require-hashes --no-deps
# Parallel make would interleave two installations into one environment.
.NOTPARALLEL:
.PHONY: repro check test lint setup setup-dev ui promote lock FORCE

repro: setup
	@python -B -X pycache_prefix=/dev/null -m rfdetr_core check # stops if git tracks .pyc files; -X: Python ignores .pyc files
	@dvc repro
	@python -m rfdetr_core results

# Two workers, each with whole modules, whose fixtures are expensive; tests/conftest.py puts the longest modules first.
# A worker that crashes ends the run: loadscope would wait forever for a restarted worker.
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
	@command -v git >/dev/null || { echo "error: git is not installed. DVC needs it" >&2; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) is not installed. Install Python 3.11 or later, or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11. Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@echo "installing the locked packages into .venv (about 5 GB; this takes minutes)"
	@$(INSTALL) $(LOCKS:%=-r %)
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.lock
	@$(INSTALL) -r requirements/dev.lock
	@touch $@

# Install the project, so that scripts in any folder can import rfdetr_core and `rfdetr-dvc` is a command.
# - The installed path is a folder of links to this package. If it were the root of the project, scripts could
#   also import `tests`, `ci` and `data`.
# - Without "compat", setuptools installs an import hook. Python would start slower, and editors and type checkers would not find the code.
# - The path in the path file is relative. With the locale C, Python does not start if a path file has a letter that is not ASCII.
# - `pip install .` replaces the path file by a copy of the code, and `pip uninstall` removes it. If the file is missing, the next `make`
#   installs the project again.
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

# Open MLflow with the local runs, on http://127.0.0.1:5000
ui: setup
	@python -m rfdetr_core ui

# Copy the last model to weights/. To continue training from it, set model.pretrain_weights to that file.
promote:
	@python -m rfdetr_core promote

# Resolve the locks again. This needs uv on the path. Each lock uses the versions that the earlier locks have chosen.
lock:
	@cd requirements && before= && for name in numeric runtime report export documents dev audit; do \
	  uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    $$name.in -c constraints.in $$before -o $$name.lock || exit 1; \
	  case $$name in numeric|runtime|report|export|documents) before="$$before -c $$name.lock";; esac; \
	done
