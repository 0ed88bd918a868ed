"""Time of scoring a validation set like COCO's: by pycocotools (reported scores) and by the quick scorer of training.

    python benchmarks/scoring.py [--images 1000] [--detections 295] [--classes 80] [--masks]
    python benchmarks/scoring.py --only quick | --hold rows

Each image has as many detections as Nano has queries, and a few of them are right. Prints the CPU time of both scorers,
the largest difference of their scores, and the time for COCO's 5,000 images and two tracks (EMA and regular).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_step import peak_memory
from rfdetr_core.metrics.coco import score
from rfdetr_core.metrics.quick import quick_score

COCO_IMAGES, TRACKS = 5_000, 2
SCORERS = {"pycocotools": score, "quick": quick_score}


def dataset(images: int, detections: int, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, 7 per image as in COCO, and detections.

    Up to three detections are shifted copies of each annotation. The others are random boxes.

    Args:
        images: how many.
        detections: per image.
        classes: how many.
    """
    random = np.random.default_rng(0)
    truth, guesses = [], []
    for image in range(1, images + 1):
        own = []
        for _ in range(int(random.poisson(7))):
            w, h = np.exp(random.uniform(np.log(8), np.log(320), 2))
            box = [float(v) for v in (*random.uniform(0, 320, 2), w, h)]
            own.append({"image_id": image, "category_id": int(random.integers(classes)), "bbox": box})
        for annotation in own:
            truth.append(annotation | {"id": len(truth) + 1, "area": annotation["bbox"][2] * annotation["bbox"][3]})
            truth[-1] |= {"iscrowd": int(random.random() < 0.01), "segmentation": outline(annotation["bbox"])}
        for number in range(detections):
            annotation = own[number % len(own)] if own and number < 3 * len(own) else None
            box = (
                random.uniform(0, 320, 4)
                if annotation is None
                else np.array(annotation["bbox"]) * random.normal(1, 0.1, 4)
            )
            label = (
                int(random.integers(classes))
                if annotation is None or random.random() < 0.2
                else annotation["category_id"]
            )
            row = {"image_id": image, "category_id": label, "bbox": [float(v) for v in box.clip(1, 640)]}
            guesses.append(row | {"score": float(random.beta(1, 8) if annotation is None else random.beta(2, 3))})
    listed = [{"id": image, "height": 640, "width": 640} for image in range(1, images + 1)]
    kinds = [{"id": index, "name": f"class {index}"} for index in range(classes)]
    return {"images": listed, "categories": kinds, "annotations": truth}, guesses


def outline(box: list[float]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--detections", type=int, default=295)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--only", choices=SCORERS, help="run only this scorer, and print its memory")
    parser.add_argument("--hold", choices=("rows", "table", "streaming"), help="print only the memory of a validation")
    options = parser.parse_args()
    annotations, detections = dataset(options.images, options.detections, options.classes)
    if options.masks:
        from pycocotools import mask as rle

        for detection in detections:
            detection["segmentation"] = rle.merge(rle.frPyObjects(outline(detection["bbox"]), 640, 640))
    if options.hold:
        print(f"{options.hold}: {memory_per_image(options.hold, annotations, detections):.1f} KiB per image")
        return
    results = []
    for name in [options.only] if options.only else SCORERS:
        start, before = time.process_time(), peak_memory("cpu")
        results.append(
            list(SCORERS[name](annotations, detections, "segm" if options.masks else "bbox").numbers().values())
        )
        seconds = time.process_time() - start
        whole = seconds / options.images * COCO_IMAGES * TRACKS
        more = f"; {peak_memory('cpu') - before:.0f} MiB more than before" if options.only else ""
        print(f"{name}: {seconds:.1f} s for {options.images} images; {whole:.0f} s an epoch of COCO{more}", flush=True)
    if len(results) == 2:
        print(f"largest difference {np.abs(np.subtract(*results)).max():.1e} over {len(detections):,} detections")


def memory_per_image(form: str, annotations: dict[str, Any], detections: list[dict[str, Any]]) -> float:
    """The memory of the detections of a validation in KiB per image, in batches of 8, after the first tenth of images.

    Args:
        form: rows (as training keeps them), table, or streaming (hotcoco's StreamingEval).
        annotations: of the images.
        detections: of the images.
    """
    of_image, truth = (defaultdict[int, list[dict[str, Any]]](list) for _ in range(2))
    for rows, groups in ((detections, of_image), (annotations["annotations"], truth)):
        for entry in rows:
            groups[entry["image_id"]].append(entry)
    streaming, kept, images = hotcoco.StreamingEval(annotations["categories"]), list[Any](), annotations["images"]
    process, borders = psutil.Process(), range(0, len(images), 8)
    for place in borders:
        if place == borders[len(borders) // 10]:
            before, first = process.memory_info().rss, place
        batch = images[place : place + 8]
        own = [row for image in batch for row in of_image[image["id"]]]
        columns = [(row["image_id"], *row["bbox"], row["score"], row["category_id"]) for row in own]
        table = np.array(columns).reshape(-1, 7)
        if form == "rows":
            kept += json.loads(json.dumps(own))
        elif form == "table":
            kept.append(table)
        else:
            streaming.update(batch, [row for image in batch for row in truth[image["id"]]], table)
    return (process.memory_info().rss - before) / 1024 / (len(images) - first)


if __name__ == "__main__":
    main()
