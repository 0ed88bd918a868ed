"""Reader of YOLO: data.yaml names the splits and classes, and a text file per image has its objects."""

from __future__ import annotations

import math
import posixpath
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import load_yaml
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import LINK_OUT, joined, leads_outside, listing, name_problem, plain_name
from rfdetr_core.ingest.geometry import bounds
from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, Split, short_repr

DEFINITIONS = ("data.yaml", "data.yml")
# Names of the definition file in exports of FiftyOne. Other tools use the same names for other content, so such a file
# counts only if it has a key of YOLO. An unreadable file counts, too: `read` reports it.
_OTHER_DEFINITIONS = ("dataset.yaml", "dataset.yml")
LAYOUT = "YOLO: data.yaml (or data.yml, dataset.yaml) with train, val, test and names; images/ beside labels/"
# An export from COCO adds this key to data.yaml: the category id of each class, in the order of `names`.
IDS_KEY = "category_ids"
# CVAT's lists of images name data/x.jpg, but its export has no folder data/.
_CVAT_FOLDER = "data/"
_MOST_BYTES = 256 * 2**20
_LONGEST_LINE = 2**20
KEYS = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}


def is_present(root: Path) -> bool:
    """Whether a folder is in YOLO's layout: a file defines the dataset."""
    return _definition(root) is not None


def read(root: Path, findings: Findings) -> Dataset:
    """Read all splits that data.yaml names."""
    definition = _definition(root)
    assert definition is not None
    place = Place(definition)
    if leads_outside(root, place.file):
        findings.add("labels-outside", place, f"it is {LINK_OUT}")
        return {}
    try:
        content = load_yaml(root / place.file)
    except UserError as error:
        findings.add("labels-unreadable", place, str(error).replace(str(root / place.file), "it"))
        return {}
    if not isinstance(content, dict):
        findings.add("labels-malformed", place, f"it has no keys, only {short_repr(content)}")
        return {}
    categories = _read_names(content, place, findings)
    base, keypoints = _base_folder(root, content.get("path"), place, findings), _keypoints(content, place, findings)
    dataset: Dataset = {}
    records_of: dict[str, list[ImageRecord]] = {}
    owners: dict[str, str] = {}
    for name, keys in KEYS.items():
        entries = next((content[key] for key in keys if content.get(key)), None)
        if name == "test" and entries is not None and base is not None and _is_absent(root, base, entries):
            findings.add("test-missing", place, f"test is {short_repr(entries)}, which does not exist")
        elif entries is not None and base is not None:
            records_of[name] = _read_images(root, base, entries, place, findings)
    with_own_labels = {
        name: [record for record in records if _has_own_label_file(record, owners, findings)]
        for name, records in records_of.items()
    }
    misspelt = set[str]() if findings.broken else _check_unused_label_files(root, owners, findings)
    for name, records in with_own_labels.items():
        usable = (record for record in records if record.path not in misspelt)
        usable_records = [record for record in usable if _read_objects(root, record, keypoints, findings)]
        _count_unlabelled(root, name, usable_records, place, findings)
        if IDS_KEY in content:
            _use_category_ids(usable_records, categories, findings)
        dataset[name] = Split(place, usable_records, categories, frozenset(record.path for record in records_of[name]))
    return dataset


def _definition(root: Path) -> str | None:
    """The name of the file that defines the dataset."""
    for name in DEFINITIONS:
        if (root / name).is_file():
            return name
    expected_keys = {"names", "nc", *(key for keys in KEYS.values() for key in keys)}
    for name in _OTHER_DEFINITIONS:
        if (root / name).is_file():
            try:
                content = load_yaml(root / name)
            except UserError:
                return name  # `read` reports what is wrong
            if isinstance(content, dict) and expected_keys & content.keys():
                return name
    return None


def _count_unlabelled(root: Path, name: str, records: list[ImageRecord], place: Place, findings: Findings) -> None:
    without_labels = [
        record.path
        for record in records
        if not (root / label_path(record.path)).exists() and (root / record.path).exists()
    ]
    if without_labels:
        first, count = without_labels[0], len(without_labels)
        message = (
            f"{count} of {len(records)} images of {name} have no label file, so they count as images without objects"
        )
        message += f". The first: {first}. Its label file would be {label_path(first)}"
        findings.add("image-without-labels", place, message)


def _check_unused_label_files(root: Path, owners: dict[str, str], findings: Findings) -> set[str]:
    """Find label files without an image. Returns the images whose label file has another spelling.

    owners: label file -> its image. It also has the label files that do not exist.
    """
    missing = [label for label in owners if not (root / label).exists()]
    spelt = {plain_name(label): label for label in missing}
    of_stem = {posixpath.splitext(posixpath.basename(label))[0]: label for label in missing}
    misspelt = set()
    for path in listing(root, ".", (".txt",)):
        if path in owners or not _has_labels(root, path):
            continue
        if label := spelt.get(plain_name(path)):
            image = owners[label]
            message = (
                f"the label file of {image!a} must be called {label!a}, not {path!a}: case or Unicode form differs"
            )
            if findings.add("name-differs", Place(path, image=image), message):
                misspelt.add(image)
            continue
        expected = of_stem.get(posixpath.splitext(posixpath.basename(path))[0])
        hint = f"; the label file of {owners[expected]} would be {expected}" if expected else ""
        findings.add("label-without-image", Place(path), f"no image has this label file{hint}")
    return misspelt


def _has_labels(root: Path, path: str) -> bool:
    """Whether a text file should be a label file, judged by its folder or its first line."""
    *folders, name = path.split("/")
    if name == "classes.txt" or leads_outside(root, path) or not (root / path).is_file():
        return False
    if "labels" in map(str.casefold, folders):
        return True
    try:
        with files.open_regular(root / path) as file:
            line = file.readline(_LONGEST_LINE).decode("utf-8-sig", errors="replace")
        category, values = _numbers(line.strip() or "-")
    except OSError:
        return False
    return category is not None and len(values) >= 4


def _read_names(content: dict[str, Any], place: Place, findings: Findings) -> list[Category]:
    names, count = content.get("names"), content.get("nc")
    table = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(table, dict) or not table or any(number not in table for number in range(len(table))):
        findings.add(
            "class-malformed", place, f"names is {short_repr(names)}, neither a list nor a mapping numbered from 0"
        )
    elif count is not None and count != len(table):
        findings.add("class-malformed", place, f"nc is {short_repr(count)}, but there are {len(table)} names")
    else:
        ids = content.get(IDS_KEY, list(range(len(table))))
        are_ids = isinstance(ids, list) and all(type(class_id) is int and 0 <= class_id <= 2**53 for class_id in ids)
        if are_ids and len(set(ids)) == len(ids) == len(table):
            return [Category(ids[number], table[number]) for number in range(len(table))]
        findings.add("class-malformed", place, f"{IDS_KEY} is {short_repr(ids)}, not {len(table)} different ids")
    return []


def _use_category_ids(records: list[ImageRecord], categories: list[Category], findings: Findings) -> None:
    """Replace the class numbers of the lines by category ids."""
    for record in records:
        annotations = []
        for annotation in record.annotations:
            if 0 <= annotation.category < len(categories):
                annotations.append(replace(annotation, category=categories[annotation.category].id))
            elif categories:
                findings.add("class-unknown", annotation.place, f"class {annotation.category} is not in names")
        record.annotations = annotations


def _base_folder(root: Path, entry: Any, place: Place, findings: Findings) -> str | None:
    """The folder that the paths in data.yaml are relative to: its key `path`."""
    if not isinstance(entry, str) or not entry:
        return "." if not entry else _existing_path(root, ".", entry, place, findings)
    if entry.startswith(("/", "\\")) or entry[1:2] == ":":
        if name_problem(f"x/{_path_below(root, '.', entry)}") or entry[1:2] == ":":
            message = (
                f"path is {short_repr(entry)}, which is outside the dataset folder. Is it from another machine? If so, "
            )
            message += f"remove the key: then train, val and test are relative to the folder of {place.file}"
            findings.add("labels-outside", place, message)
            return None
    else:
        # For Ultralytics, a path like ../datasets/coco8 is relative to another folder.
        below = joined(".", entry).replace("../", "")
        if not name_problem(f"x/{below}") and not (root / below).exists():
            message = (
                f"path is {short_repr(entry)}, which is not in the dataset folder. train, val and test are read as "
            )
            message += "relative to the dataset folder"
            return None if findings.add("base-ignored", place, message) else "."
    return _existing_path(root, ".", entry, place, findings)


def _keypoints(content: dict[str, Any], place: Place, findings: Findings) -> int:
    """How many keypoint numbers follow each box. They are skipped."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int or size < 1 for size in shape):
        findings.add("labels-malformed", place, f"kpt_shape is {short_repr(shape)}, not [number, 2] or [number, 3]")
        return 0
    findings.add("keypoints-ignored", place, f"kpt_shape is {short_repr(shape)}, so the lines have keypoints")
    return int(shape[0] * shape[1])


def _has_own_label_file(record: ImageRecord, owners: dict[str, str], findings: Findings) -> bool:
    """Add the label file of an image to `owners`. False: another image has the same label file; leave this one out."""
    label = label_path(record.path)
    owner = owners.setdefault(label, record.path)
    message = f"{label} is also the label file of {owner}"
    return owner == record.path or not findings.add("label-shared", Place(record.path, image=record.path), message)


def _existing_path(root: Path, base: str, entry: Any, place: Place, findings: Findings) -> str | None:
    """The path below the dataset folder that an entry means; None, with a finding, if it does not exist."""
    text = entry if isinstance(entry, str) else ""
    path = _meant_path(root, base, text)
    problem = name_problem(f"x/{path}")
    if not text or (problem and problem[0] == "path-malformed"):
        findings.add("labels-malformed", place, f"{short_repr(entry)} is not a path")
    elif problem or leads_outside(root, path):
        findings.add("labels-outside", place, f"{short_repr(entry)} leaves the dataset folder")
    elif not (root / path).exists():
        message = f"{short_repr(entry)} does not exist: looked for {path} in the dataset folder"
        findings.add("labels-missing", place, message)
    else:
        return path
    return None


def _is_absent(root: Path, base: str, entries: Any) -> bool:
    """Whether all entries are paths inside the dataset folder that do not exist."""
    texts = entries if isinstance(entries, list) else [entries]
    if not all(isinstance(text, str) and text for text in texts):
        return False
    paths = [_meant_path(root, base, text) for text in texts]
    return not any(name_problem(f"x/{path}") or leads_outside(root, path) or (root / path).exists() for path in paths)


def _meant_path(root: Path, base: str, text: str) -> str:
    """The path below the dataset folder that an entry of data.yaml means."""
    path = _path_below(root, base, text)
    # Roboflow writes ../train/images and means train/images. Ultralytics reads it so, too.
    return path.replace("../", "") if path.startswith("../") and not text.startswith("/") else path


def _path_below(root: Path, base: str, text: str) -> str:
    text = text.replace("\\", "/")
    return posixpath.relpath(text, root.resolve().as_posix()) if text.startswith("/") else joined(base, text)


def _read_images(root: Path, base: str, entries: Any, place: Place, findings: Findings) -> list[ImageRecord]:
    """The images of a split. An entry is a folder, a text file that lists images, or an image."""
    listed: list[tuple[str, Place]] = []
    prefix = "" if (root / _CVAT_FOLDER).is_dir() else _CVAT_FOLDER
    for entry in entries if isinstance(entries, list) else [entries]:
        path = _existing_path(root, base, entry, place, findings)
        if path is not None and (root / path).is_dir():
            listed += [(image, Place(image)) for image in listing(root, path)]
        elif path is not None and path.lower().endswith(".txt"):
            for number, line in _read_lines(root, path, "labels-unreadable", findings) or []:
                # As in Ultralytics: ./x is relative to the folder of the list, x to the folder of the dataset.
                image = _path_below(root, posixpath.dirname(path) if line.startswith("./") else base, line)
                listed.append((image.removeprefix(prefix), Place(path, number)))
        elif path is not None:
            listed.append((path, place))
    images: dict[str, ImageRecord] = {}
    for path, place_listed in listed:
        if problem := name_problem(path):
            findings.add(problem[0], place_listed, problem[1])
        elif path in images:
            findings.add("image-listed-twice", replace(place_listed, image=path), f"{path} is in this split already")
        else:
            images[path] = ImageRecord(path, place_listed)
    return [images[path] for path in sorted(images)]


def label_path(image: str) -> str:
    """The label file of an image: in the path, `labels` replaces the last folder `images`.

    Without a folder `images`, the label file is beside the image.
    """
    folders = image.split("/")[:-1]
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return posixpath.join(*folders, posixpath.splitext(posixpath.basename(image))[0] + ".txt")


def _read_objects(root: Path, record: ImageRecord, keypoints: int, findings: Findings) -> bool:
    """Add the objects of an image's label file, if it has one, to its record. False: the image must be left out."""
    path = label_path(record.path)
    lines = _read_lines(root, path, "label-unreadable", findings) if (root / path).exists() else []
    for number, line in lines or []:
        place = Place(path, number, image=record.path)
        category, values = _numbers(line)
        if keypoints and len(values) == 4 + keypoints:
            values = values[:4]
        if category is not None and (len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)):
            record.annotations.append(_annotation(place, category, values))
            continue
        message = (
            f"{short_repr(line)} is neither a box (class, centre x, centre y, width, height) nor a class and a polygon"
        )
        if "," in line:
            message += ". Write decimal points, and separate numbers by spaces"
        elif len(values) == 5 and line.split()[-1].isdecimal():
            message += (
                ". Is the last number the id of a track, as CVAT writes it? Remove it: export again without tracks"
            )
        elif len(values) == 5:
            message += ". Is the last number a confidence? Then the file has predictions, not labels"
        findings.add("annotation-malformed", place, message)
    return lines is not None


def _numbers(line: str) -> tuple[int | None, list[float]]:
    """The class and the other numbers of a line; (None, []) if one of them is not a number."""
    first_word, *other_words = line.split()
    try:
        category = float(first_word)  # some tools write the class as 0.0
        class_id = (
            int(first_word) if first_word.lstrip("+-").isdecimal() else int(category) if category.is_integer() else None
        )
        # Python also reads 1_0 as 10, and digits of other scripts. Other readers do not, so such a line is malformed.
        return class_id if line.isascii() and "_" not in line else None, [float(word) for word in other_words]
    except (ValueError, OverflowError):
        return None, []


def _annotation(place: Place, category: int, values: list[float]) -> Annotation:
    if not all(map(math.isfinite, values)):
        return Annotation(place, category, [math.nan] * 4, relative=True)
    if len(values) == 4:
        x, y, width, height = values
        return Annotation(place, category, [x - width / 2, y - height / 2, width, height], relative=True)
    return Annotation(place, category, list(bounds(values)), [values], relative=True)


def _read_lines(root: Path, path: str, code: str, findings: Findings) -> list[tuple[int, str]] | None:
    """The lines of a text file that are not blank, with their numbers; None, with a finding, if it cannot be read."""
    try:
        if leads_outside(root, path) or not (root / path).is_file():
            raise OSError(0, f"it is not a regular file, or {LINK_OUT}")
        if (root / path).stat().st_size > _MOST_BYTES:
            raise OSError(0, f"it has more than {_MOST_BYTES:,} bytes")
        text = files.read_bytes(root / path).decode()
    except (OSError, UnicodeDecodeError) as error:
        findings.add(code, Place(path), f"it cannot be read: {getattr(error, 'strerror', error)}")
        return None
    if text.startswith("\ufeff"):
        findings.add("byte-order-mark", Place(path), "the file begins with a byte order mark")
    lines = enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]
