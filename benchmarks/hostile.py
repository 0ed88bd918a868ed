"""Replaces each value of a model file by each of a list of strange values, and runs each command on the file.

Prints each traceback.

python -m benchmarks.hostile            # all values: some hours on two cores
python -m benchmarks.hostile 20         # every twentieth value
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

from tests.hostile import ODD, Target, bad_ending, bounded_memory


def main() -> None:
    """Print the tracebacks, then their count."""
    step, bad, tried = int(sys.argv[1]) if len(sys.argv) > 1 else 1, Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))
        with bounded_memory(2**31):
            for place, name in list(product(target.places(), ODD))[::step]:
                target.write(place, ODD[name])
                for command, run in target.commands().items():
                    tried += 1
                    if (wrong := bad_ending(run)) is not None:
                        bad[wrong.strip().splitlines()[-1]] += 1
                        print(f"{command}: {'.'.join(map(str, place))} = {name}\n{wrong}", flush=True)
    print(f"{tried} runs, {bad.total()} tracebacks")
    for message, count in bad.most_common():
        print(f"{count:6} {message}")


if __name__ == "__main__":
    main()
