#!/bin/sh
# What a killed retraining left behind on a runner that keeps its folder: anything that git tracks, or would track.
# Ignored files stay: DVC's cache, .venv, and the state from which an interrupted training goes on.
set -eu
[ "${CI:-}" = true ] || { echo "error: this throws away uncommitted work; it runs only where CI=true" >&2; exit 1; }
git reset -q --hard
git clean -fdq
rm -rf .retrain # what an earlier retraining had to say
# Bytecode is ignored as well, and Python would run it.
find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +
