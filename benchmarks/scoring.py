"""Scoring of a validation set of COCO's kind: pycocotools (what is reported) and the quick scores of training.

    python benchmarks/scoring.py [--images 1000] [--detections 295] [--classes 80] [--masks]

Detections per image are what a Nano finds: as many as queries, a few of them right. Prints seconds of CPU of both, the
largest difference of their numbers, and the seconds for COCO's 5,000 images and two tracks (EMA and regular).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rfdetr_core.metrics.coco import score
from rfdetr_core.metrics.quick import quick_score

COCO_IMAGES, TRACKS = 5_000, 2


def dataset(images: int, detections: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, 7 an image as in COCO; detections: each annotation three times, shifted, and the rest anywhere."""
    random = np.random.default_rng(0)
    truth, found = [], []
    for image in range(1, images + 1):
        own = []
        for _ in range(int(random.poisson(7))):
            w, h = np.exp(random.uniform(np.log(8), np.log(320), 2))
            box = [float(v) for v in (*random.uniform(0, 320, 2), w, h)]
            own.append({"image_id": image, "category_id": int(random.integers(classes)), "bbox": box})
        for one in own:
            truth.append(one | {"id": len(truth) + 1, "area": one["bbox"][2] * one["bbox"][3]})
            truth[-1] |= {"iscrowd": int(random.random() < 0.01), "segmentation": outline(one["bbox"])}
        for number in range(detections):
            one = own[number % len(own)] if own and number < 3 * len(own) else None
            box = random.uniform(0, 320, 4) if one is None else np.array(one["bbox"]) * random.normal(1, 0.1, 4)
            label = int(random.integers(classes)) if one is None or random.random() < 0.2 else one["category_id"]
            row = {"image_id": image, "category_id": label, "bbox": [float(v) for v in box.clip(1, 640)]}
            found.append(row | {"score": float(random.beta(1, 8) if one is None else random.beta(2, 3))})
    listed = [{"id": image, "height": 640, "width": 640} for image in range(1, images + 1)]
    kinds = [{"id": index, "name": f"class {index}"} for index in range(classes)]
    return {"images": listed, "categories": kinds, "annotations": truth}, found


def outline(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=295)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--masks", action="store_true")
    options = parser.parse_args()
    annotations, found = dataset(options.images, options.detections, options.classes)
    if options.masks:
        from pycocotools import mask as rle

        for one in found:
            one["segmentation"] = rle.merge(rle.frPyObjects(outline(one["bbox"]), 640, 640))
    results = []
    for name, function in (("pycocotools", score), ("quick", quick_score)):
        start = time.process_time()
        results.append(list(function(annotations, found, "segm" if options.masks else "bbox").numbers().values()))
        seconds = time.process_time() - start
        whole = seconds / options.images * COCO_IMAGES * TRACKS
        print(f"{name}: {seconds:.1f} s for {options.images} images; {whole:.0f} s an epoch of COCO", flush=True)
    print(f"largest difference {np.abs(np.subtract(*results)).max():.1e} over {len(found):,} detections")


if __name__ == "__main__":
    main()
