"""YOLO: data.yaml names the splits and classes, a text file for each image holds its objects."""

from __future__ import annotations

import math
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_core.errors import UserError
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.geometry import bounds
from rfdetr_core.ingest.paths import joined, leaves, listing, name_fault
from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, Split, shown
from rfdetr_core.params import load_yaml

DEFINITIONS = ("data.yaml", "data.yml")
LAYOUT = "YOLO: data.yaml (or data.yml) with train, val, test and names; images/ across from labels/"
KEYS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}


def found(root: Path) -> bool:
    """Whether there is a data.yaml."""
    return any((root / name).is_file() for name in DEFINITIONS)


def read(root: Path, findings: Findings) -> Dataset:
    """Read all splits that data.yaml names."""
    place = Place(next(name for name in DEFINITIONS if (root / name).is_file()))
    try:
        content = load_yaml(root / place.file)
    except UserError as error:
        findings.add("labels-unreadable", place, str(error).replace(str(root / place.file), "it"))
        return {}
    if not isinstance(content, dict):
        findings.add("labels-malformed", place, f"it holds {shown(content)}, no keys")
        return {}
    categories = _read_names(content, place, findings)
    base = _inside(root, ".", content.get("path") or ".", place, findings)
    dataset, named = {}, []
    for name, keys in KEYS.items():
        entries = next((content[key] for key in keys if content.get(key)), None)
        if entries is not None and base is not None:
            records = _read_images(root, base, entries, place, findings)
            named += [record.path for record in records]
            kept = [record for record in records if _read_objects(root, record, findings)]
            dataset[name] = Split(place, kept, categories)
    _find_lost_labels(root, {label_path(path) for path in named}, findings)
    return dataset


def _read_names(content: dict[str, Any], place: Place, findings: Findings) -> list[Category]:
    names, count = content.get("names"), content.get("nc")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table or any(number not in table for number in range(len(table))):
        findings.add("class-malformed", place, f"names is {shown(names)}, neither a list nor numbered from 0")
    elif count is not None and count != len(table):
        findings.add("class-malformed", place, f"nc is {shown(count)}, but there are {len(table)} names")
    else:
        return [Category(number, table[number]) for number in range(len(table))]
    return []


def _inside(root: Path, base: str, entry: Any, place: Place, findings: Findings) -> str | None:
    """The path below the dataset folder that an entry means; None, with a finding, where there is no such thing."""
    text = entry if isinstance(entry, str) else ""
    path = _below(root, base, text)
    if path.startswith("../") and not text.startswith("/"):
        # Roboflow writes ../train/images and means train/images; Ultralytics reads it so too.
        path = path.replace("../", "")
    fault = name_fault(f"x/{path}")
    if not text or (fault and fault[0] == "path-malformed"):
        findings.add("labels-malformed", place, f"{shown(entry)} is no path")
    elif fault or leaves(root, path):
        findings.add("labels-outside", place, f"{shown(entry)} leaves the dataset folder")
    elif not (root / path).exists():
        findings.add("labels-missing", place, f"{shown(entry)} is not there: looked for {path} in the dataset folder")
    else:
        return path
    return None


def _below(root: Path, base: str, text: str) -> str:
    text = text.replace("\\", "/")
    return posixpath.relpath(text, root.resolve().as_posix()) if text.startswith("/") else joined(base, text)


def _read_images(root: Path, base: str, entries: Any, place: Place, findings: Findings) -> list[ImageRecord]:
    """The images of a split: of folders, of lists in text files, or single ones."""
    listed: list[tuple[str, Place]] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        path = _inside(root, base, entry, place, findings)
        if path is not None and (root / path).is_dir():
            listed += [(image, Place(image)) for image in listing(root, path)]
        elif path is not None and path.lower().endswith(".txt"):
            for number, line in _read_lines(root, path, "labels-unreadable", findings) or []:
                # Ultralytics's rule: ./x counts from the folder of the list, x from that of the dataset.
                image = _below(root, posixpath.dirname(path) if line.startswith("./") else base, line)
                listed.append((image, Place(path, number)))
        elif path is not None:
            listed.append((path, place))
    images: dict[str, ImageRecord] = {}
    for path, at in listed:
        if fault := name_fault(path):
            findings.add(fault[0], at, fault[1])
        elif path in images:
            findings.add("image-listed-twice", replace(at, image=path), f"{path} is in this split already")
        else:
            images[path] = ImageRecord(path, at)
    return [images[path] for path in sorted(images)]


def label_path(image: str) -> str:
    """The text file of an image: in `labels` for the last folder `images` of its path, else beside it."""
    folders = image.split("/")[:-1]
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return posixpath.join(*folders, posixpath.splitext(posixpath.basename(image))[0] + ".txt")


def _read_objects(root: Path, record: ImageRecord, findings: Findings) -> bool:
    """Add the objects of an image's text file, if there is one, to its record; False: the image must be left out."""
    path = label_path(record.path)
    lines = _read_lines(root, path, "label-unreadable", findings) if (root / path).exists() else []
    for number, line in lines or []:
        place = Place(path, number, image=record.path)
        first, *rest = line.split()
        try:
            category, values = int(first), [float(word) for word in rest]
        except ValueError:
            values = []
        if len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0):
            record.annotations.append(_annotation(place, category, values))
        else:
            what = f"{shown(line)} is neither class, centre x, centre y, width, height nor class and a polygon"
            findings.add("annotation-malformed", place, what)
    return lines is not None


def _annotation(place: Place, category: int, values: list[float]) -> Annotation:
    if not all(map(math.isfinite, values)):
        return Annotation(place, category, [math.nan] * 4, relative=True)
    if len(values) == 4:
        x, y, width, height = values
        return Annotation(place, category, [x - width / 2, y - height / 2, width, height], relative=True)
    return Annotation(place, category, list(bounds(values)), [values], relative=True)


def _read_lines(root: Path, path: str, code: str, findings: Findings) -> list[tuple[int, str]] | None:
    """Lines of a text file that are not blank, with their numbers; None, and a finding, where it cannot be read."""
    try:
        if leaves(root, path) or not (root / path).is_file():
            raise OSError(0, "it is a link out of the dataset folder, or no regular file")
        text = (root / path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        findings.add(code, Place(path), f"it cannot be read: {getattr(error, 'strerror', error)}")
        return None
    if text.startswith("\ufeff"):
        findings.add("byte-order-mark", Place(path), "the file begins with a byte order mark")
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _find_lost_labels(root: Path, labels: set[str], findings: Findings) -> None:
    folders = {posixpath.dirname(label) for label in labels if "labels" in label.split("/")}
    for label in sorted({label for folder in folders for label in listing(root, folder, (".txt",))} - labels):
        if posixpath.basename(label) != "classes.txt":
            findings.add("label-without-image", Place(label), "no image of a split belongs to it")
