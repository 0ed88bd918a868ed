"""Writing a dataset in another format: YOLO from COCO, COCO from YOLO, with the same ids."""

from __future__ import annotations

import json
import math
import os
import posixpath
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from rfdetr_core.base import files, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest.classes import bare_parents
from rfdetr_core.ingest.clean import in_pixels
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import METADATA, leads_outside
from rfdetr_core.ingest.formats import read_dataset
from rfdetr_core.ingest.formats.coco import ANNOTATIONS
from rfdetr_core.ingest.formats.yolo import IDS_KEY, KEYS, label_path
from rfdetr_core.ingest.geometry import bounds, numbers, overshoot, polygon_area
from rfdetr_core.ingest.metadata import Rows, metadata_of, read_metadata_csv
from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, is_text, short_repr
from rfdetr_core.ingest.rules import ANNOTATION_RULES, Frame, clipped

Format = Literal["yolo", "coco"]
Linking = Literal["copy", "hardlink", "symlink", "none"]
# In a YOLO dataset, this file has the COCO ids of images and annotations. YOLO itself has none.
IDS_FILE = "coco_ids.json"
_SAME = 1e-6  # pixels
_NAMED = 3  # findings that a message shows in full


@dataclass(frozen=True)
class ExportedImage:
    """One image to write: its source file, its path in the new split, its size, and its objects in pixels.

    id: the id of the image; None if not known. The id of each object is in its `place`. metadata: column -> value.
    """

    source: Path
    path: str
    width: int
    height: int
    id: int | None
    objects: list[Annotation]
    metadata: dict[str, str]


Splits = dict[str, list[ExportedImage]]


def _place_image(image: ExportedImage, target: Path, linking: Linking) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if linking == "copy":
        shutil.copyfile(image.source, target)
    elif linking == "hardlink":
        os.link(os.path.realpath(image.source), target)
    elif linking == "symlink":
        target.symlink_to(os.path.relpath(os.path.realpath(image.source), os.path.realpath(target.parent)))


def write_coco(folder: Path, splits: Splits, categories: list[Category], linking: Linking) -> list[str]:
    """Write COCO in Roboflow's layout. Returns an empty list: COCO can store all content.

    Args:
        folder: the folder of the new dataset.
        splits: the images to write, by split.
        categories: the class table. Its ids are kept.
        linking: how images are put into the new dataset: as copies, as links, or not at all.
    """
    for name, split in splits.items():
        free = count(1 + max([image.id or 0 for image in split], default=0))
        free_object = count(
            1 + max([annotation.place.annotation or 0 for image in split for annotation in image.objects], default=0)
        )
        rows, annotations = [], []
        for image in split:
            image_id = next(free) if image.id is None else image.id
            rows.append({"id": image_id, "file_name": image.path, "width": image.width, "height": image.height})
            for annotation in image.objects:
                annotation_id = annotation.place.annotation
                identity = next(free_object) if annotation_id is None else annotation_id
                annotations.append({"id": identity, "image_id": image_id} | _coco_object(annotation))
            _place_image(image, folder / name / image.path, linking)
        table = [{"id": category.id, "name": category.name} for category in categories]
        content = {"images": rows, "annotations": annotations, "categories": table}
        files.write_json(folder / name / ANNOTATIONS, content)
    return []


def _coco_object(annotation: Annotation) -> dict[str, Any]:
    (area,) = numbers([annotation.area]) or (math.inf,)
    if not math.isfinite(area):
        polygons = annotation.segmentation if isinstance(annotation.segmentation, list) else []
        area = sum(map(polygon_area, polygons)) if polygons else annotation.box[2] * annotation.box[3]
    content = {
        "category_id": annotation.category,
        "bbox": list(annotation.box),
        "area": area,
        "iscrowd": int(annotation.crowd),
    }
    return content | ({"segmentation": annotation.segmentation} if annotation.segmentation else {})


def write_yolo(folder: Path, splits: Splits, categories: list[Category], linking: Linking) -> list[str]:
    """Write YOLO in Ultralytics's layout. Returns notes about what YOLO cannot hold.

    Args:
        folder: the folder of the new dataset.
        splits: the images to write, by split.
        categories: the class table. YOLO numbers the classes in its order.
        linking: how images are put into the new dataset: as copies, as links, or not at all.
    """
    labelled = [
        annotation
        for split in splits.values()
        for image in split
        for annotation in image.objects
        if not annotation.crowd
    ]
    # Ultralytics reads a box in a file with polygons as a polygon of two points. So all objects have polygons, or none.
    polygons = bool(labelled) and all(map(_is_polygon, labelled))
    crowds = sum(bool(annotation.crowd) for split in splits.values() for image in split for annotation in image.objects)
    indexes = {category.id: number for number, category in enumerate(categories)}
    ids, cut = {}, 0
    for name, split in splits.items():
        owners: dict[str, str] = {}
        (folder / "images" / name).mkdir(parents=True)
        for image in split:
            path = posixpath.join("images", name, image.path)
            label = label_path(path)
            if owners.setdefault(label, path) != path:
                problem = f"{owners[label]} and {path} would share the label file {label} in YOLO's layout"
                raise UserError(f"{problem}. Rename one of them.")
            frame = Frame(image.width, image.height, indexes)
            annotations = [annotation for annotation in image.objects if not annotation.crowd]
            cut += sum(overshoot(annotation.box, image.width, image.height) > _SAME for annotation in annotations)
            (folder / label).parent.mkdir(parents=True, exist_ok=True)
            with (folder / label).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(
                    _yolo_line(clipped(annotation, frame), indexes, image, polygons) for annotation in annotations
                )
            _place_image(image, folder / path, linking)
            annotation_ids = [annotation.place.annotation for annotation in annotations]
            if image.id is not None and None not in annotation_ids:
                ids[path] = [image.id, annotation_ids]
    definition = [f"{KEYS[name][0]}: images/{name}" for name in splits] + ["names:"]
    definition += [
        f"  {number}: {json.dumps(category.name, ensure_ascii=False)}" for number, category in enumerate(categories)
    ]
    if list(indexes) != list(indexes.values()):
        definition.append(f"{IDS_KEY}: {list(indexes)}  # of COCO; other readers of YOLO ignore this key")
    files.write_text(folder / "data.yaml", "".join(f"{line}\n" for line in definition))
    if ids:
        files.write_text(folder / IDS_FILE, json.dumps(ids, ensure_ascii=False) + "\n")
    masks = 0 if polygons else sum(bool(annotation.segmentation) for annotation in labelled)
    areas = sum(
        _area_differs_from_shape(annotation if polygons else replace(annotation, segmentation=None))
        for annotation in labelled
    )
    lost = {
        "crowds left out": crowds,
        "boxes cut at the edge of their image": cut,
        "masks left out, since YOLO needs one polygon for every object, with the bounds of its box": masks,
        "areas left out, since they differ from the area of the polygon or box": areas,
    }
    return [f"{description}: {count}" for description, count in lost.items() if count]


def _write_metadata(folder: Path, splits: Splits, images: str) -> None:
    """Write metadata.csv if any image has metadata. images: the folder that contains the splits."""
    rows = [
        {"file_name": posixpath.join(images, name, image.path)} | image.metadata
        for name, split in splits.items()
        for image in split
        if image.metadata
    ]
    if rows:
        columns = sorted({column for row in rows for column in row} - {"file_name"})
        files.write_table(folder / METADATA, rows, ["file_name", *columns])


def _is_polygon(annotation: Annotation) -> bool:
    """Whether YOLO can store the object as a polygon: one polygon whose bounds are the box."""
    if not isinstance(annotation.segmentation, list) or len(annotation.segmentation) != 1:
        return False
    return all(abs(a - b) <= _SAME for a, b in zip(bounds(annotation.segmentation[0]), annotation.box, strict=True))


def _area_differs_from_shape(annotation: Annotation) -> bool:
    computed = _coco_object(replace(annotation, area=None))["area"]
    return bool(abs(_coco_object(annotation)["area"] - computed) > _SAME * max(1.0, computed))


def _yolo_line(annotation: Annotation, indexes: dict[int, int], image: ExportedImage, polygons: bool) -> str:
    left, top, width, height = annotation.box
    values = annotation.segmentation[0] if polygons else [left + width / 2, top + height / 2, width, height]
    sides = (image.width, image.height)
    # Twelve digits are 1e-8 pixels in an image of 10,000 pixels.
    relative = [f"{value / sides[k % 2]:.12f}".rstrip("0").rstrip(".") for k, value in enumerate(values)]
    return " ".join([str(indexes[annotation.category]), *relative]) + "\n"


def export_dataset(source: Path, destination: Path, to: Format, linking: Linking) -> str:
    """Write a dataset in another format, to a new or empty folder. Categories, images and annotations keep their ids.

    Args:
        source: the dataset folder, in any known layout.
        destination: the folder to write; it must not be inside `source`.
        to: the new format.
        linking: how images are put into the new dataset: as copies, as links, or not at all.

    Returns:
        A text about the written files and about the content that the format could not hold.

    Raises:
        UserError: the source is missing or has errors, the destination has content, or two images or label files would
            get the same name in the new format.
    """
    if not source.is_dir():
        problem = "is not a folder" if source.exists() else "does not exist"
        raise UserError(f"{source} {problem}. Name the folder of a dataset; unpack an archive first.")
    if destination.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"{destination} is inside {source}, so the export would change that dataset. Name a folder outside of it."
        )
    findings = Findings(ValidateConfig())
    dataset = read_dataset(source, findings)
    table = _class_table(dataset)
    paths = {path for split in dataset.values() for path in (*split.listed, *(record.path for record in split.images))}
    metadata_rows = read_metadata_csv(source, paths, findings)
    splits = {name: _images_of(source, split.images, table, metadata_rows, findings) for name, split in dataset.items()}
    findings.all[:] = [
        finding for finding in findings.all if finding.code != "split-missing"
    ]  # the split `valid` may be missing
    if findings.stopping:
        places = [
            f"\n  {finding.place.file}"
            + (f":{finding.place.line}" if finding.place.line else "")
            + (f" annotation {finding.place.annotation}" if finding.place.annotation is not None else "")
            + f": {finding.message} ({finding.code})"
            for finding in findings.stopping[:_NAMED]
        ]
        head = (
            f"{source} has {len(findings.stopping)} errors. Correct them first. The stage validate lists all of them; "
            "these are the first:"
        )
        raise UserError(head + "".join(places))
    unused_parents = bare_parents(dataset.values())
    notes = [
        f"{n} x {code}: the stage validate lists them"
        for code, n in Counter(finding.code for finding in findings.all).items()
    ]
    notes += [
        f"class {category.name!r} is the parent of others and has no objects, so it is left out"
        for category in unused_parents
    ]
    categories = [
        category for category in table.values() if category.id not in {parent.id for parent in unused_parents}
    ]
    with _all_or_nothing(destination) as folder:
        notes += (write_yolo if to == "yolo" else write_coco)(folder, splits, categories, linking)
        _write_metadata(folder, splits, "images" if to == "yolo" else "")
    counts = [len(image.objects) for split in splits.values() for image in split]
    summary = (
        f"{destination}: {len(counts)} images, {sum(counts)} objects of {len(categories)} classes, as {to.upper()}"
    )
    return "\n  ".join([summary, *notes])


def _class_table(dataset: Dataset) -> dict[int, Category]:
    """The classes of all splits: id -> category, sorted by id."""
    table: dict[int, Category] = {}
    for name, split in dataset.items():
        for category in split.categories:
            earlier = table.setdefault(category.id, category)
            if earlier.name != category.name:
                problem = f"{short_repr(earlier.name)} in one split, but {short_repr(category.name)} in {name}"
                raise UserError(f"class id {category.id} is {problem}. Give all splits the same classes.")
            if not is_text(category.name):
                raise UserError(
                    f"the name of class id {category.id} is {short_repr(category.name)}, not text. Give it a name."
                )
    unused_parents = bare_parents(dataset.values())
    doubled = [
        name
        for name, n in Counter(category.name for category in table.values() if category not in unused_parents).items()
        if n > 1
    ]
    if doubled:
        raise UserError(
            f"{short_repr(doubled[0])} is the name of several class ids. Give each class one id in all splits."
        )
    return dict(sorted(table.items()))


def _images_of(
    root: Path, records: list[ImageRecord], table: dict[int, Category], metadata_rows: Rows, findings: Findings
) -> list[ExportedImage]:
    """The checked images of a split, sorted by path."""
    ids = _known_ids(root)
    shared = posixpath.commonpath([posixpath.dirname(record.path) for record in records]) if records else ""
    exported = []
    for record in sorted(records, key=lambda record: record.path):
        path, place = root / record.path, Place(record.path, image=record.path)
        if leads_outside(root, record.path) or not path.is_file():
            findings.add("image-missing", place, "it is not a file in the dataset folder")
            continue
        try:
            width, height = images.upright_size(path)
        except UserError as error:
            findings.add("image-unreadable", place, str(error))
            continue
        if (record.width, record.height) not in ((None, None), (width, height)):
            claimed = short_repr((record.width, record.height))
            findings.add("image-size-differs", place, f"it is {width} x {height}, but the labels say {claimed}")
        frame = Frame(width, height, table)
        objects = [in_pixels(annotation, frame) for annotation in record.annotations]
        for annotation in objects:
            for rule in ANNOTATION_RULES:
                message = rule.check(annotation, frame) if rule.check and rule.severity == "error" else None
                if message is not None:
                    findings.add(rule.code, annotation.place, message)
                    break
        image_id = record.id
        if image_id is None:
            image_id, object_ids = ids.get(record.path, (None, []))
            if len(object_ids) == len(objects):  # otherwise the label file was edited later
                for k, annotation in enumerate(objects):
                    objects[k] = replace(annotation, place=replace(annotation.place, annotation=object_ids[k]))
        name = posixpath.relpath(record.path, shared or ".")
        exported.append(ExportedImage(path, name, width, height, image_id, objects, metadata_of(record, metadata_rows)))
    return exported


def _known_ids(root: Path) -> dict[str, tuple[int | None, list[int | None]]]:
    """The ids that an export to YOLO kept: image path -> id of the image, ids of its lines."""
    path = root / IDS_FILE
    if not path.is_file():
        return {}
    content = files.read_json(path)
    rows: Any = content.items() if isinstance(content, dict) else [("its start", None)]
    ids = {}
    for name, row in rows:
        good = isinstance(row, list) and len(row) == 2 and isinstance(row[1], list)
        if not good or any(type(identity) is not int for identity in (row[0], *row[1])):
            raise UserError(
                f"{path} was changed since its export, at {short_repr(name)}. Remove the file to get new ids."
            )
        ids[name] = (row[0], row[1])
    return ids


@contextmanager
def _all_or_nothing(destination: Path) -> Iterator[Path]:
    """A temporary folder that becomes `destination` if the block succeeds, and is removed if it fails."""
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UserError(f"{destination} is not a folder. Name a new or an empty folder.")
    if destination.exists() and any(destination.iterdir()):
        raise UserError(f"{destination} is not empty. Name a new or an empty folder.")
    temporary: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
        yield temporary
        temporary.chmod(0o777 & ~files.umask())
        temporary.replace(destination)  # also onto an empty folder
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {destination}: {reason}. Nothing was written. Try --images copy.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
