"""Time, memory and size of the evaluation page: python -m benchmarks.report FOLDER [--images N] [--classes K]

Makes JPEGs of 96 x 80 with about 6 objects and 20 detections each, most of them near an object. Writes the page in a
separate process. Files that FOLDER already has are used again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path
from typing import Any

from rfdetr_core.report.config import ReportConfig
from rfdetr_core.report.evaluation import write_report
from tests.evaluation.scenes import random_scene
from tests.report.made import make_evaluation, where_of


def make(folder: Path, images: int, classes: int) -> None:
    """Write the files that the stage report reads."""
    annotations, rows = random_scene(0, images=images, classes=classes, objects=6, detections=20)
    for image in annotations["images"]:
        image["file_name"] = f"{image['id']:06}.jpg"
    make_evaluation(folder, annotations, rows)


def measure(folder: Path, results: Any) -> None:
    begun = time.perf_counter()
    write_report(where_of(folder), ReportConfig(), folder / "reports", folder / "run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.put((time.perf_counter() - begun, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=3)
    options = parser.parse_args()
    folder = options.folder / f"{options.images}-{options.classes}"
    if not (folder / "run" / "history.csv").exists():
        begun = time.perf_counter()
        make(folder, options.images, options.classes)
        print(f"made in {time.perf_counter() - begun:.0f} s")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=measure, args=(folder, results))
    process.start()
    seconds, peak = results.get()
    process.join()
    size = (folder / "reports" / "index.html").stat().st_size
    print(f"{options.images} images, {options.classes} classes: {seconds:.1f} s, {peak:,.0f} MiB, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
