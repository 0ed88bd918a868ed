"""A small good dataset in every format, and helpers that validate and convert it. Other tests plant faults in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.validate import PageWriter, validate_dataset

SIZE = (64, 48)
NAMES = ("cat", "dog")
# Split -> images -> objects as (class index, box). All numbers are binary fractions of SIZE, so YOLO is exact, too.
SPLITS: dict[str, list[list[tuple[int, list[float]]]]] = {
    "train": [[(0, [4, 6, 16, 12]), (1, [32, 24, 20, 12])], [(1, [8, 12, 24, 18])], []],
    "valid": [[(0, [16, 12, 12, 24])], [(1, [8, 6, 48, 36])]],
    "test": [[(0, [20, 6, 8, 6]), (1, [2, 3, 4, 6])]],
}


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def coco_content(split: str) -> dict[str, Any]:
    """The COCO annotations of a split. Image ids start at 1, annotation ids at 10; the class ids are 3 and 7."""
    objects = [
        (number, labelled_object) for number, image in enumerate(SPLITS[split], start=1) for labelled_object in image
    ]
    return {
        "info": {"year": 2026},
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 7, "name": "dog"}],
        "images": [
            {"id": number, "file_name": f"{split}_{number}.png", "width": SIZE[0], "height": SIZE[1]}
            for number in range(1, len(SPLITS[split]) + 1)
        ],
        "annotations": [
            {"id": 10 + k, "image_id": number, "category_id": (3, 7)[label], "bbox": [*box], "area": box[2] * box[3]}
            for k, (number, (label, box)) in enumerate(objects)
        ],
    }


def make_coco(root: Path) -> Path:
    for number, split in enumerate(SPLITS):
        (root / split).mkdir(parents=True)
        for k in range(len(SPLITS[split])):
            picture(10 * number + k).save(root / split / f"{split}_{k + 1}.png")
        write_coco(root, split, coco_content(split))
    return root


def make_masks(root: Path) -> Path:
    """The same dataset with a polygon for each object: its box."""
    make_coco(root)
    for split in SPLITS:
        edit_coco(
            root,
            split,
            lambda content: [
                annotation.update(segmentation=[_corners(annotation)]) for annotation in content["annotations"]
            ],
        )
    return root


def _corners(annotation: Any) -> list[float]:
    x, y, width, height = annotation["bbox"]
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def make_plain(root: Path) -> Path:
    """The same dataset in COCO's own layout."""
    make_coco(root)
    (root / "annotations").mkdir()
    for split, name in (("train", "train2017"), ("valid", "val2017"), ("test", "test2017")):
        (root / split / "_annotations.coco.json").rename(root / "annotations" / f"instances_{name}.json")
        (root / split).rename(root / name)
    return root


def write_coco(root: Path, split: str, content: object) -> None:
    (root / split / "_annotations.coco.json").write_text(json.dumps(content))


def edit_coco(root: Path, split: str, change: Callable[[Any], object]) -> None:
    """Change the parsed annotations of a split in place."""
    content = json.loads((root / split / "_annotations.coco.json").read_text())
    change(content)
    write_coco(root, split, content)


def make_yolo(root: Path) -> Path:
    """The same dataset in YOLO: labels in labels/ beside images/."""
    for number, (split, images) in enumerate(SPLITS.items()):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for k, objects in enumerate(images):
            picture(10 * number + k).save(root / "images" / split / f"{split}_{k + 1}.png")
            rows = [" ".join(map(str, (label, *_fractions(box)))) for label, box in objects]
            (root / "labels" / split / f"{split}_{k + 1}.txt").write_text("".join(f"{row}\n" for row in rows))
    (root / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/valid\ntest: images/test\nnc: 2\nnames: [cat, dog]\n"
    )
    return root


# The good dataset in every format and layout.
MAKERS = (make_coco, make_masks, make_plain, make_yolo)


def _fractions(box: list[float]) -> tuple[float, ...]:
    x, y, width, height = box
    return (x + width / 2) / SIZE[0], (y + height / 2) / SIZE[1], width / SIZE[0], height / SIZE[1]


def validate(
    root: Path, out: Path, write_page: PageWriter | None = None, **config: Any
) -> tuple[list[dict[str, Any]], str | None]:
    """Validate a dataset. Returns the findings as in findings.json, and the error message or None."""
    error = None
    try:
        parsed = parse(ValidateConfig, config, "validate")
        validate_dataset(root, parsed, out / "reports", out / "manifest", write_page=write_page)
    except UserError as raised:
        error = str(raised)
    path = out / "reports" / "findings.json"
    return json.loads(path.read_text()) if path.exists() else [], error


def ingest(root: Path, out: Path, **config: Any) -> dict[str, bytes]:
    """Validate and convert a dataset. Returns the bytes of all files that later stages read."""
    validate_dataset(root, parse(ValidateConfig, config, "validate"), out / "reports", out / "manifest")
    convert_dataset(root, parse(ValidateConfig, config, "validate"), out / "manifest", out / "annotations")
    folders = (out / "manifest", out / "annotations")
    return {f"{folder.name}/{path.name}": path.read_bytes() for folder in folders for path in sorted(folder.iterdir())}


def places(findings: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Code, severity, file and line or annotation id of each finding."""
    return [
        (
            finding["code"],
            finding["severity"],
            finding["file"],
            finding["annotation"] if finding["line"] is None else finding["line"],
        )
        for finding in findings
    ]
