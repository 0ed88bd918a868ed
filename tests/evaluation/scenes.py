"""Random scenes: objects and detections. Some detections are right, some duplicates, some in a wrong place or class."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from pycocotools import mask as rle

Rows = list[dict[str, Any]]
WIDTH, HEIGHT = 96, 80


def random_scene(
    seed: int, *, images: int = 12, classes: int = 3, objects: int = 5, detections: int = 14, crowds: float = 0.0,
    masks: bool = False,
) -> tuple[dict[str, Any], Rows]:  # fmt: skip
    """Canonical annotations, and detections in COCO's results format."""
    random = np.random.default_rng(seed)
    annotations, results = Rows(), Rows()
    for image in range(1, images + 1):
        objects_of_image = Rows()
        for _ in range(int(random.poisson(objects))):
            row = _row(image, int(random.integers(classes)), _box(random), masks) | {"iscrowd": 0}
            if random.random() < crowds:
                row |= {"iscrowd": 1}
            row["area"] = float(rle.area(row["segmentation"])) if masks else row["bbox"][2] * row["bbox"][3]
            objects_of_image.append(row | {"id": len(annotations) + len(objects_of_image) + 1})
        annotations += objects_of_image
        for _ in range(detections):
            box, label = _box(random), int(random.integers(classes))
            if objects_of_image and random.random() < 0.8:
                near = objects_of_image[int(random.integers(len(objects_of_image)))]
                label = near["category_id"] if random.random() < 0.8 else label
                scale = float(random.choice([0.03, 0.15, 0.4]))
                box = _inside(np.array(near["bbox"]) + random.normal(0, scale, 4) * near["bbox"][2])
            results.append(_row(image, label, box, masks) | {"score": round(float(random.beta(2, 3)), 4)})
    named = [
        {"id": number, "file_name": f"{number:03}.png", "width": WIDTH, "height": HEIGHT}
        for number in range(1, images + 1)
    ]
    categories = [{"id": number, "name": f"class{number}"} for number in range(classes)]
    return {"images": named, "annotations": annotations, "categories": categories}, results


def repeated(content: dict[str, Any], results: Rows, times: list[int]) -> tuple[dict[str, Any], Rows]:
    """The dataset with image i repeated times[i] times, under new ids. No two scores are equal."""
    images, truth, repeated_results = Rows(), Rows(), Rows()
    for image, count in enumerate(times):
        for number in range(count):
            new = len(images) + 1
            images.append({**content["images"][image], "id": new})
            truth += [
                {**copy.deepcopy(annotation), "image_id": new, "id": 0}
                for annotation in content["annotations"]
                if annotation["image_id"] == content["images"][image]["id"]
            ]
            repeated_results += [
                {**result, "image_id": new, "score": result["score"] - number * 1e-9}
                for result in results
                if result["image_id"] == content["images"][image]["id"]
            ]
    for number, annotation in enumerate(truth, start=1):
        annotation["id"] = number
    return {**content, "images": images, "annotations": truth}, repeated_results


def _row(image: int, label: int, box: list[float], masks: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"image_id": image, "category_id": label, "bbox": box}
    if masks:
        mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
        x, y, w, h = (round(value) for value in box)
        mask[y : y + max(1, h), x : x + max(1, w)] = 1
        mask[y : y + max(1, h) // 3, x : x + max(1, w) // 3] = 0
        coded = rle.encode(mask)
        row["segmentation"] = coded | {"counts": coded["counts"].decode()}
    return row


def _box(random: np.random.Generator) -> list[float]:
    w, h = random.uniform(6, 40, 2).tolist()
    return [float(random.uniform(0, WIDTH - w)), float(random.uniform(0, HEIGHT - h)), w, h]


def _inside(box: Any) -> list[float]:
    x, y = float(np.clip(box[0], 0, WIDTH - 3)), float(np.clip(box[1], 0, HEIGHT - 3))
    return [x, y, float(np.clip(box[2], 2, WIDTH - x)), float(np.clip(box[3], 2, HEIGHT - y))]
