#!/bin/sh
# Remove what a killed retraining left on a runner that keeps its folder: changes of tracked files, and new files.
# Ignored files stay: DVC's cache, .venv, and the state from which an interrupted training resumes.
set -eu
[ "${CI:-}" = true ] || { echo "error: ci/clean.sh deletes uncommitted work, so it runs only where CI=true" >&2; exit 1; }
git reset -q --hard
git clean -fdq
rm -rf .retrain # the files of an earlier retraining
# Bytecode is ignored by git too, but Python would run it.
find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
