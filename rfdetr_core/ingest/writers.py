"""The writers of exported datasets: COCO and YOLO."""

from __future__ import annotations

import json
import math
import os
import posixpath
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rfdetr_core import files
from rfdetr_core.errors import UserError
from rfdetr_core.ingest.checks import Frame, clipped
from rfdetr_core.ingest.formats.coco import ANNOTATIONS
from rfdetr_core.ingest.formats.yolo import IDS_KEY, KEYS, label_path
from rfdetr_core.ingest.geometry import bounds, numbers, overshoot, polygon_area
from rfdetr_core.ingest.records import Annotation, Category

Linking = Literal["copy", "hardlink", "symlink", "none"]
# In a YOLO dataset: the ids that COCO gives to images and annotations, and YOLO does not.
IDS_FILE = "coco_ids.json"
_SAME = 1e-6  # pixels


@dataclass(frozen=True)
class ExportedImage:
    """One image to write: its file, its path in the new split, its size and objects in pixels; ids as far as known."""

    source: Path
    path: str
    width: int
    height: int
    id: int | None
    objects: list[Annotation]
    object_ids: list[int | None]


def _place_image(image: ExportedImage, target: Path, linking: Linking) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if linking == "copy":
        shutil.copyfile(image.source, target)
    elif linking == "hardlink":
        os.link(os.path.realpath(image.source), target)
    elif linking == "symlink":
        target.symlink_to(os.path.relpath(os.path.realpath(image.source), os.path.realpath(target.parent)))


def write_coco(
    folder: Path, splits: dict[str, list[ExportedImage]], categories: list[Category], linking: Linking
) -> list[str]:
    """COCO in Roboflow's layout."""
    for name, split in splits.items():
        free = 1 + max([image.id or 0 for image in split], default=0)
        free_object = 1 + max([one or 0 for image in split for one in image.object_ids], default=0)
        rows, annotations = [], []
        for image in split:
            identity = image.id
            if identity is None:
                identity, free = free, free + 1
            rows.append({"id": identity, "file_name": image.path, "width": image.width, "height": image.height})
            for one, known in zip(image.objects, image.object_ids, strict=True):
                if known is None:
                    known, free_object = free_object, free_object + 1
                annotations.append({"id": known, "image_id": identity} | _coco_object(one))
            _place_image(image, folder / name / image.path, linking)
        table = [{"id": one.id, "name": one.name} for one in categories]
        content = {"images": rows, "annotations": annotations, "categories": table}
        files.write_json(folder / name / ANNOTATIONS, content)
    return []


def _coco_object(one: Annotation) -> dict[str, Any]:
    (area,) = numbers([one.area]) or (math.inf,)
    if not math.isfinite(area):
        polygons = one.segmentation if isinstance(one.segmentation, list) else []
        area = sum(map(polygon_area, polygons)) if polygons else one.box[2] * one.box[3]
    content = {"category_id": one.category, "bbox": list(one.box), "area": area, "iscrowd": int(one.crowd)}
    return content | ({"segmentation": one.segmentation} if one.segmentation else {})


def write_yolo(
    folder: Path, splits: dict[str, list[ExportedImage]], categories: list[Category], linking: Linking
) -> list[str]:
    """YOLO in Ultralytics's layout. Gives what it cannot hold."""
    every = [one for split in splits.values() for image in split for one in image.objects if not one.crowd]
    # Ultralytics reads boxes in a file with polygons as polygons of two points: all or none.
    polygons = bool(every) and all(map(_is_polygon, every))
    crowds = sum(bool(one.crowd) for split in splits.values() for image in split for one in image.objects)
    indexes = {one.id: number for number, one in enumerate(categories)}
    ids, cut = {}, 0
    for name, split in splits.items():
        owners: dict[str, str] = {}
        (folder / "images" / name).mkdir(parents=True)
        for image in split:
            path = posixpath.join("images", name, image.path)
            label = label_path(path)
            if owners.setdefault(label, path) != path:
                raise UserError(
                    f"{owners[label]} and {path} would share {label}, in YOLO's layout. Rename one of them."
                )
            frame = Frame(image.width, image.height, indexes)
            kept = [k for k, one in enumerate(image.objects) if not one.crowd]
            cut += sum(overshoot(image.objects[k].box, image.width, image.height) > _SAME for k in kept)
            lines = [_yolo_line(clipped(image.objects[k], frame), indexes, image, polygons) for k in kept]
            _write(folder / label, lines)
            _place_image(image, folder / path, linking)
            known = [image.object_ids[k] for k in kept]
            if image.id is not None and None not in known:
                ids[path] = [image.id, known]
    _write_definition(folder, list(splits), categories)
    if ids:
        _write(folder / IDS_FILE, [json.dumps(ids, ensure_ascii=False), "\n"])
    lost = {
        "crowds, left out": crowds,
        "boxes that reached over the edge of their image, cut": cut,
        "masks, left out (YOLO holds one polygon an object, whose bounds are its box, for all objects or none)": (
            0 if polygons else sum(bool(one.segmentation) for one in every)
        ),
        "areas that are not those of the polygon or box, left out": sum(
            _has_own_area(one if polygons else replace(one, segmentation=None)) for one in every
        ),
    }
    return [f"{what}: {count}" for what, count in lost.items() if count]


def _is_polygon(one: Annotation) -> bool:
    """Whether YOLO can hold the object as a polygon."""
    if not isinstance(one.segmentation, list) or len(one.segmentation) != 1:
        return False
    return all(abs(a - b) <= _SAME for a, b in zip(bounds(one.segmentation[0]), one.box, strict=True))


def _has_own_area(one: Annotation) -> bool:
    computed = _coco_object(replace(one, area=None))["area"]
    return bool(abs(_coco_object(one)["area"] - computed) > _SAME * max(1.0, computed))


def _yolo_line(one: Annotation, indexes: dict[int, int], image: ExportedImage, polygons: bool) -> str:
    left, top, width, height = one.box
    values = one.segmentation[0] if polygons else [left + width / 2, top + height / 2, width, height]
    sides = (image.width, image.height)
    # Twelve digits: a hundredth of a millionth of a pixel in an image of 10,000.
    relative = [f"{value / sides[k % 2]:.12f}".rstrip("0").rstrip(".") for k, value in enumerate(values)]
    return " ".join([str(indexes[one.category]), *relative]) + "\n"


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def _write_definition(folder: Path, splits: list[str], categories: list[Category]) -> None:
    lines = [f"{KEYS[name][0]}: images/{name}" for name in splits]
    lines += [
        "names:",
        *(f"  {number}: {json.dumps(one.name, ensure_ascii=False)}" for number, one in enumerate(categories)),
    ]
    if [one.id for one in categories] != list(range(len(categories))):
        lines.append(f"{IDS_KEY}: {[one.id for one in categories]}  # of COCO; other readers of YOLO pass over it")
    _write(folder / "data.yaml", [f"{line}\n" for line in lines])
