#!/bin/sh
# Run the kit where there is no network: sh benchmarks/cuda/run.sh [options of benchmarks/cuda/kit.py]
set -eu
cd "$(dirname "$0")/../.."
if [ -d benchmarks/cuda/.wheels ]; then
    site=$(mktemp -d)
    python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" \
        benchmarks/cuda/.wheels/*.whl
    PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
    export PYTHONPATH
fi
exec python3 -m benchmarks.cuda.kit "$@"
