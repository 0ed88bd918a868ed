"""Breaks labels on purpose and counts how many are among the first suspects, compared with a random order.

    python benchmarks/suspects.py [--project DIR] [--broken 20] [--first 40] [--seeds 30]

Run it in a project after `dvc repro`. Detections and labels are those of its evaluation; no model runs. Only boxes are
used. The labels are broken in turn: moved, removed, added and, with several classes, changed to another class. "By
chance" is the expected number in a random order of as many labels: broken x first / labels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr_core.base import files
from rfdetr_core.evaluation.analysis import Analysis, Results
from rfdetr_core.evaluation.suspects import suspects
from tests.broken import break_labels


def main() -> None:
    """Print a line for each seed, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path(), metavar="DIR")
    for name, default in (("broken", 20), ("first", 40), ("seeds", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    reports = options.project / "reports" / "evaluate"
    split = files.read_json(reports / "about.json")["split"]
    right = files.read_json(options.project / "annotations" / f"{split}.json")
    results = Results.read(reports / "detections.json")
    labels = len(right["annotations"])
    chance = options.broken * min(1.0, options.first / labels)
    print(f"{split}: {labels} labels of {len(right['images'])} images, AP50 of all: "
          f"{files.read_json(reports / 'metrics.json')['map_50']:.3f}")  # fmt: skip
    hits_per_seed, kinds, all_kinds = list[int](), Counter[str](), Counter[str]()
    for seed in range(options.seeds):
        annotations, broken = break_labels(right, options.broken, seed)
        first = suspects(Analysis.from_results(annotations, results)).head(options.first)
        hits = [label.kind for label in broken if label.is_suspected(first)]
        hits_per_seed.append(len(hits))
        kinds.update(hits)
        all_kinds.update(label.kind for label in broken)
        print(f"seed {seed}: {len(hits)} of {options.broken} broken labels are among the first {options.first}")
    mean = statistics.mean(hits_per_seed)
    fewest, most = min(hits_per_seed), max(hits_per_seed)
    print(f"mean {mean:.1f}, {fewest} to {most}; by chance {chance:.1f}: lift {mean / chance:.1f}")
    print("; ".join(f"{kind}: {kinds[kind]} of {count}" for kind, count in all_kinds.items()))


if __name__ == "__main__":
    main()
