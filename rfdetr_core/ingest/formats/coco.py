"""COCO in Roboflow's layout: a folder for each split, its annotations beside its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core.ingest import strict_json
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.paths import joined, listing, name_fault
from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, Split, shown

ANNOTATIONS = "_annotations.coco.json"
LAYOUT = f"COCO as Roboflow exports it: train/{ANNOTATIONS} beside the images, also in valid/ (or val/) and test/"
FOLDERS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}


def found(root: Path) -> bool:
    """Whether the folder of a split has annotations."""
    return any((root / folder / ANNOTATIONS).is_file() for folders in FOLDERS.values() for folder in folders)


def read(root: Path, findings: Findings) -> Dataset:
    """Read all splits."""
    dataset = {}
    for name, folders in FOLDERS.items():
        present = [folder for folder in folders if (root / folder).is_dir()]
        if len(present) > 1:
            findings.add("labels-malformed", Place(present[1]), f"{' and '.join(present)} are both the {name} split")
        for folder in present[:1]:
            if (root / folder / ANNOTATIONS).is_file():
                dataset[name] = read_split(root, joined(folder, ANNOTATIONS), folder, findings)
            else:
                findings.add("labels-missing", Place(folder), f"there is no {folder}/{ANNOTATIONS}")
    return dataset


def read_split(root: Path, file: str, folder: str, findings: Findings) -> Split:
    """Read one annotation file, whose images lie in `folder`."""
    content = strict_json.read(root, file, findings)
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations", "categories")]
    if not all(isinstance(entries, list) for entries in lists):
        if not findings.broken:
            findings.add("labels-malformed", Place(file), "images, annotations and categories are not three lists")
        return Split(Place(file), [], [])
    images = _read_images(lists[0] or [], file, folder, findings)
    _read_annotations(lists[1] or [], file, images, findings)
    named = {joined(folder, str(entry.get("file_name"))) for entry in lists[0] or [] if isinstance(entry, dict)}
    for path in listing(root, folder):
        if path not in named:
            findings.add("image-not-listed", Place(path, image=path), f"{file} does not name this image")
    records = [record for record in images.values() if record]
    return Split(Place(file), records, _read_categories(lists[2] or [], file, findings))


def _read_images(entries: list[Any], file: str, folder: str, findings: Findings) -> dict[int, ImageRecord | None]:
    """Images by id; None stands for an image that is left out, so that its annotations are too."""
    images: dict[int, ImageRecord | None] = {}
    paths: dict[str, int] = {}
    for number, entry in enumerate(entries):
        identity = _id(entry)
        if identity is None:
            findings.add("image-malformed", Place(file), f"images[{number}] is {shown(entry)}, without a valid id")
            continue
        fault = name_fault(entry.get("file_name"))
        path = joined(folder, str(entry.get("file_name")))
        place = Place(file, image=None if fault else path)
        if fault:
            findings.add(fault[0], place, f"image id {identity}: {fault[1]}")
        elif identity in images:
            findings.add("image-id-doubled", place, f"image id {identity} stands for another entry too")
        elif path in paths:
            findings.add("image-listed-twice", place, f"image id {identity} and {paths[path]} are both {path}")
        first = images.get(identity)
        # Of an id with two files, the annotations may be meant for either.
        if first is None or first.path != path:
            usable = not fault and identity not in images and path not in paths
            images[identity] = ImageRecord(path, place, entry.get("width"), entry.get("height")) if usable else None
        paths.setdefault(path, identity)
    return images


def _read_annotations(entries: list[Any], file: str, images: dict[int, ImageRecord | None], findings: Findings) -> None:
    seen: set[int] = set()
    for number, entry in enumerate(entries):
        identity, owner = _id(entry), _id(entry, "image_id")
        record = images.get(owner) if owner is not None else None
        place = Place(file, annotation=identity, image=record.path if record else None)
        if identity is None:
            findings.add("annotation-malformed", place, f"annotations[{number}] is {shown(entry)}, without a valid id")
        elif identity in seen:
            findings.add("annotation-id-doubled", place, f"annotation id {identity} stands for another one too")
        elif owner not in images:
            findings.add("annotation-without-image", place, f"there is no image id {shown(entry.get('image_id'))}")
        elif record:
            category, box, segmentation, area = map(entry.get, ("category_id", "bbox", "segmentation", "area"))
            record.annotations.append(Annotation(place, category, box, segmentation, area, entry.get("iscrowd", 0)))
        seen.add(-1 if identity is None else identity)


def _read_categories(entries: list[Any], file: str, findings: Findings) -> list[Category]:
    categories = []
    for number, entry in enumerate(entries):
        identity = _id(entry)
        if identity is None:
            findings.add("class-malformed", Place(file), f"categories[{number}] is {shown(entry)}, without a valid id")
        else:
            categories.append(Category(identity, entry.get("name"), entry.get("supercategory")))
    return categories


def _id(entry: Any, key: str = "id") -> int | None:
    """The id, if it is one: True and 1.0 would equal 1, and beyond 2**53 other readers round."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return value if type(value) is int and 0 <= value <= 2**53 else None
