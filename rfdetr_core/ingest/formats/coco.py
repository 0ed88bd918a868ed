"""Reader of COCO: in Roboflow's layout (a folder per split), in the original one, or in the files of params.yaml."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import LINK_OUT, joined, leads_outside, listing, name_problem, plain_name
from rfdetr_core.ingest.records import (
    Annotation,
    Category,
    Dataset,
    ImageRecord,
    Place,
    Split,
    is_text,
    metadata_value,
    short_repr,
)

ANNOTATIONS = "_annotations.coco.json"
LAYOUT = f"COCO as Roboflow exports it: train/{ANNOTATIONS} beside the images, also in valid/ (or val/) and test/"
# Folder names of the splits, compared without case.
FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
PLAIN_LAYOUT = (
    "original COCO: annotations/instances_train2017.json and train2017/ (or images/train2017/), the same for val and "
    "test; CVAT's instances_default.json is train"
)
_PLAIN = re.compile(r"instances_((train|val|test|default)[^/]*)\.json", re.IGNORECASE)
_SPLITS = {"val": "valid", "default": "train"}
_KEYS = ("images", "annotations", "categories")
# The most bytes of an annotation file. After parsing, it takes several times as much memory.
MOST_BYTES = 2 * 2**30
_LARGEST_ID = 2**53


def read_json(root: Path, file: str, findings: Findings) -> Any:
    """Parse a JSON file; None, with a finding, if that fails. NaN and infinities are left to later checks.

    Args:
        root: the dataset folder.
        file: the path of the file below it.
        findings: collects the findings.
    """

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            names = [name for name, _ in pairs]
            doubled = next(name for name in names if names.count(name) > 1)
            annotation = value.get("id") if "image_id" in value and isinstance(value.get("id"), int) else None
            message = f"an object has the key {short_repr(doubled)} twice"
            findings.add("key-doubled", Place(file, annotation=annotation), message)
        return value

    place, problem = Place(file), ""
    if leads_outside(root, file):
        findings.add("labels-outside", place, f"it is {LINK_OUT}")
        return None
    try:
        size = (root / file).stat().st_size
        if size > MOST_BYTES:
            raise OSError(0, f"its {size:,} bytes are more than the {MOST_BYTES:,} allowed: split the dataset")
        data = files.read_bytes(root / file)
        if data.startswith(codecs.BOM_UTF8):
            findings.add("byte-order-mark", place, "the file begins with a byte order mark")
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=collect)
    except json.JSONDecodeError as error:
        place, problem = Place(file, error.lineno), str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    except (OSError, ValueError) as error:
        problem = str(getattr(error, "strerror", error))
    findings.add("labels-unreadable", place, f"it cannot be read as JSON: {problem}")
    return None


def is_present(root: Path) -> bool:
    """Whether a folder is in Roboflow's layout: the folder of a split has an annotation file."""
    return any((root / folder / ANNOTATIONS).is_file() for split in FOLDERS for folder in _folders(root, split))


def _folders(root: Path, split: str) -> list[str]:
    """The folders with the name of a split, in the order of FOLDERS."""
    names = FOLDERS[split]
    folders = [entry.name for entry in root.glob("*") if entry.name.casefold() in names and entry.is_dir()]
    return sorted(folders, key=lambda name: (names.index(name.casefold()), name))


def read(root: Path, findings: Findings) -> Dataset:
    """Read all splits in Roboflow's layout."""
    places = {}
    for name in FOLDERS:
        present = _folders(root, name)
        if len(present) > 1:
            findings.add("labels-malformed", Place(present[1]), f"{' and '.join(present)} are both the {name} split")
        for folder in present[:1]:
            if (root / folder / ANNOTATIONS).is_file():
                places[name] = (joined(folder, ANNOTATIONS), folder)
            else:
                findings.add("labels-missing", Place(folder), f"there is no {folder}/{ANNOTATIONS}")
    return _read_splits(root, places, findings)


def read_plain(root: Path, findings: Findings) -> Dataset:
    """Read all splits in the original COCO layout. If there are several years, params.yaml must choose."""
    places = {}
    for split, names in plain_files(root).items():
        if len(names) > 1:
            message = f"{' and '.join(names)} are both the {split} split. Choose one with validate.coco in params.yaml"
            findings.add("labels-malformed", Place(names[1]), message)
            continue
        name = _PLAIN.fullmatch(names[0].removeprefix("annotations/"))
        assert name is not None
        places_of = (name[1], f"images/{name[1]}", name[1].lower(), f"images/{name[1].lower()}", "images")
        folders = [folder for folder in places_of if (root / folder).is_dir()]
        if folders:
            places[split] = (names[0], folders[0])
        else:
            findings.add("labels-missing", Place(names[0]), f"its images are neither in {name[1]}/ nor in images/")
    for path in sorted((root / "annotations").glob("image_info_test*.json")) if "test" not in places else ():
        message = "it names images but has no annotations, so it is not used as the test split"
        findings.add("test-without-labels", Place(f"annotations/{path.name}"), message)
    return _read_splits(root, places, findings)


def read_named(root: Path, findings: Findings) -> Dataset:
    """Read the splits that `validate.coco` names."""
    places: dict[str, tuple[str, str]] = {}
    for split, paths in (findings.config.coco or {}).items():
        for name in (paths.annotations, paths.images):
            problem = name_problem(f"x/{name}")
            if problem or leads_outside(root, name):
                message = f"validate.coco.{split} names it, but it leaves the dataset folder"
                findings.add("labels-outside", Place(name), message)
            elif not (root / name).exists():
                findings.add("labels-missing", Place(name), f"validate.coco.{split} names it, but it does not exist")
        places[split] = (joined(".", paths.annotations), joined(".", paths.images))
    return {} if findings.broken else _read_splits(root, places, findings)


def plain_files(root: Path) -> dict[str, list[str]]:
    """The annotation files of the original COCO layout, by split. image_info_test*.json is left out: no annotations."""
    by_split: dict[str, list[str]] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        if (match := _PLAIN.fullmatch(path.name)) and path.is_file():
            split = match[2].lower()
            by_split.setdefault(_SPLITS.get(split, split), []).append(f"annotations/{path.name}")
    return by_split


def _read_splits(root: Path, places: Mapping[str, tuple[str, str]], findings: Findings) -> Dataset:
    """Read annotation files with the folders of their images, and find images that no file names."""
    dataset = {name: _read_split(root, file, folder, findings) for name, (file, folder) in places.items()}
    for folder in dict.fromkeys(folder for _, folder in places.values()):
        names = [name for name, place in places.items() if place[1] == folder]
        listed = {path for name in names for path in dataset[name].listed}
        files = " and ".join(places[name][0] for name in names)
        unlisted = {path for path in listing(root, folder) if path not in listed} if not findings.broken else set()
        misspelt = (_find_misspelt(root, dataset[name], unlisted, findings) for name in names)
        for path in sorted(unlisted.difference(*misspelt)):
            findings.add("image-not-listed", Place(path, image=path), f"this image is not in {files}")
    return dataset


def _find_misspelt(root: Path, split: Split, unlisted: set[str], findings: Findings) -> set[str]:
    """Remove the images of a split whose file has another spelling than in the annotations. Returns these files.

    unlisted: the files that no annotation file lists.
    """
    spelt = {plain_name(path): path for path in unlisted}
    meant = {record.path: spelt.get(plain_name(record.path)) for record in split.images if spelt}
    absent = [record for record in split.images if meant.get(record.path) and not (root / record.path).exists()]
    for record in absent:
        message = f"the file is called {meant[record.path]!a}, not {record.path!a}: case or Unicode form differs"
        findings.add("name-differs", record.place, message)
        split.images.remove(record)
    return {meant[record.path] or "" for record in absent}


_Id = int | str


@dataclass
class _Ids:
    """Reads ids. converted: the number of ids that were converted to integers. example: such an id, for a message."""

    converted: int = 0
    example: str = ""

    def integer(self, entry: Any, key: str = "id") -> int | None:
        """The id as an integer: "1" and 1.0 are 1. None for True, and for 2**60, which other readers round."""
        value: Any = entry.get(key) if isinstance(entry, dict) else None
        if type(value) is int:
            return value if 0 <= value <= _LARGEST_ID else None
        is_integer = type(value) is float and value.is_integer() and 0 <= value <= _LARGEST_ID
        if is_integer or (isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,14}", value)):
            self._note(key, value)
            return int(value)
        return None

    def integer_or_text(self, entry: Any, key: str = "id") -> _Id | None:
        """The id as an integer if possible, otherwise as text. None if it is neither an integer nor a text."""
        value = self.integer(entry, key)
        if value is None and isinstance(entry, dict) and is_text(entry.get(key)):
            self._note(key, entry[key])
            return str(entry[key])
        return value

    def _note(self, key: str, value: Any) -> None:
        self.converted += 1
        self.example = self.example or f"{key}: {short_repr(value)}"


def _read_split(root: Path, file: str, folder: str, findings: Findings) -> Split:
    """Read one annotation file. Its images are in `folder`."""
    content = read_json(root, file, findings)
    lists: list[Any] = [content.get(key) for key in _KEYS] if isinstance(content, dict) else [None]
    if not all(isinstance(entries, list) for entries in lists):
        if not findings.broken:
            findings.add("labels-malformed", Place(file), "images, annotations and categories must be three lists")
        return Split(Place(file), [], [])
    ids = _Ids()
    licences = _read_licences(content.get("licenses"))
    images = _read_images(lists[0], file, folder, ids, licences, findings)
    _check_licences(lists[0], file, licences, findings)
    _read_annotations(lists[1], file, images, ids, findings)
    categories = []
    for number, entry in enumerate(lists[2]):
        class_id = ids.integer(entry)
        if class_id is None:
            findings.add("class-malformed", Place(file), f"categories[{number}] has no valid id: {short_repr(entry)}")
        else:
            categories.append(Category(class_id, entry.get("name"), entry.get("supercategory")))
    if ids.converted:
        message = f"{ids.converted} ids are text or have a decimal point, such as {ids.example}"
        findings.add("id-not-integer", Place(file), message)
    listed = {joined(folder, str(entry.get("file_name"))) for entry in lists[0] if isinstance(entry, dict)}
    return Split(Place(file), [record for record in images.values() if record], categories, frozenset(listed), folder)


def _read_licences(entries: Any) -> dict[str, str]:
    """Licence id -> name; "" if a licence has no name."""
    entries = entries if isinstance(entries, list) else []
    return {
        _licence_id(licence, "id"): metadata_value(licence.get("name")) or ""
        for licence in entries
        if isinstance(licence, dict)
    }


def _licence_id(entry: dict[str, Any], key: str) -> str:
    """A licence id as text: 1, 1.0 and "1" are the same; "" without an id."""
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        "" if value is None or isinstance(value, bool) else short_repr(value) if isinstance(value, int) else str(value)
    )


def _check_licences(entries: list[Any], file: str, licences: Mapping[str, str], findings: Findings) -> None:
    """Find images whose licence is not in the list of licences. Tools write 0 for no licence."""
    licence_ids = ((entry, _licence_id(entry, "license")) for entry in entries if isinstance(entry, dict))
    unknown = [(entry, licence) for entry, licence in licence_ids if licence not in ("", "0", *licences)]
    if unknown:
        (entry, licence), *_ = unknown
        message = f"{len(unknown)} images have a license that is not in the list licenses. The first: "
        message += f"{short_repr(licence)} of {short_repr(entry.get('file_name'))}"
        findings.add("metadata-licence-unknown", Place(file), message)


def _metadata(entry: dict[str, Any], licences: Mapping[str, str]) -> dict[str, str] | None:
    """The licence and date of an image, if COCO's fields have them."""
    date = entry.get("date_captured")
    date = str(date) if type(date) is int and date else date  # tools write 0 for no date
    values = {"date": metadata_value(date), "licence": licences.get(_licence_id(entry, "license"))}
    return {column: value for column, value in values.items() if value} or None


def _read_images(
    entries: list[Any], file: str, folder: str, ids: _Ids, licences: Mapping[str, str], findings: Findings
) -> dict[_Id, ImageRecord | None]:
    """Image id -> record; None for an image that is left out, so that its annotations are left out too."""
    images: dict[_Id, ImageRecord | None] = {}
    paths: dict[str, _Id] = {}
    without_size: list[str] = []
    for number, entry in enumerate(entries):
        identity = ids.integer_or_text(entry)
        if identity is None:
            findings.add("image-malformed", Place(file), f"images[{number}] has no valid id: {short_repr(entry)}")
            continue
        problem = name_problem(entry.get("file_name"))
        path = joined(folder, str(entry.get("file_name")))
        place = Place(file, image=None if problem else path)
        if problem:
            findings.add(problem[0], place, f"image id {identity}: {problem[1]}")
        elif identity in images:
            findings.add("image-id-doubled", place, f"another entry also has the image id {identity}")
        elif path in paths:
            findings.add(
                "image-listed-twice",
                place,
                f"the entries with the image ids {identity} and {paths[path]} both name {path}",
            )
        earlier = images.get(identity)
        # If an id has two files, its annotations may belong to either, so both are left out.
        if earlier is None or earlier.path != path:
            usable = not problem and identity not in images and path not in paths
            width, height = entry.get("width"), entry.get("height")
            if width == height == 0:
                without_size.append(path)
                width = height = None
            integer_id = identity if isinstance(identity, int) else None
            record = ImageRecord(path, place, width, height, id=integer_id, metadata=_metadata(entry, licences))
            images[identity] = record if usable else None
        paths.setdefault(path, identity)
    if without_size:
        message = f"{len(without_size)} images have width and height 0. The first: {without_size[0]}"
        findings.add("image-size-zero", Place(file), message)
    return images


def _read_annotations(
    entries: list[Any], file: str, images: dict[_Id, ImageRecord | None], ids: _Ids, findings: Findings
) -> None:
    seen_ids: set[_Id] = set()
    ignored: list[_Id] = []
    for number, entry in enumerate(entries):
        identity, owner = ids.integer_or_text(entry), ids.integer_or_text(entry, "image_id")
        record = images.get(owner) if owner is not None else None
        integer_id = identity if isinstance(identity, int) else None
        place = Place(file, annotation=integer_id, image=record.path if record else None)
        if identity is None:
            findings.add("annotation-malformed", place, f"annotations[{number}] has no valid id: {short_repr(entry)}")
        elif identity in seen_ids:
            findings.add("annotation-id-doubled", place, f"another annotation also has the id {identity}")
        elif owner not in images:
            findings.add("annotation-without-image", place, f"no image has the id {short_repr(entry.get('image_id'))}")
        elif record:
            box, segmentation, area = map(entry.get, ("bbox", "segmentation", "area"))
            class_id = ids.integer(entry, "category_id")
            category = entry.get("category_id") if class_id is None else class_id
            crowd = entry.get("iscrowd", 0)
            if crowd == 0 and entry.get("ignore") == 1:
                ignored.append(identity)
                crowd = 1
            if isinstance(segmentation, list):
                segmentation = [polygon for polygon in segmentation if polygon != []]  # tools write [[]] for no mask
            record.annotations.append(Annotation(place, category, box, segmentation, area, crowd))
        seen_ids.add(-1 if identity is None else identity)
    if ignored:
        message = f"{len(ignored)} annotations have ignore: 1. The first has the id {ignored[0]}"
        findings.add("ignored-as-crowd", Place(file), message)
