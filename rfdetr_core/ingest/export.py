"""A dataset written anew in another format: YOLO from COCO and COCO from YOLO, nothing lost without a word."""

from __future__ import annotations

import posixpath
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rfdetr_core import files, images
from rfdetr_core.errors import UserError
from rfdetr_core.ingest.checks import ANNOTATION_RULES, Frame
from rfdetr_core.ingest.clean import in_pixels
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import read_dataset
from rfdetr_core.ingest.paths import leaves
from rfdetr_core.ingest.records import Annotation, Category, Dataset, ImageRecord, Place, is_text, shown
from rfdetr_core.ingest.writers import IDS_FILE, ExportedImage, Linking, write_coco, write_yolo

Format = Literal["yolo", "coco"]
_NAMED = 3  # faults that a message spells out


def export_dataset(source: Path, destination: Path, to: Format, linking: Linking) -> str:
    """Write the dataset `source`, in whichever layout it comes, to the new or empty folder `destination`.

    Gives what was written, and what the format could not hold. Categories, images and annotations keep their ids.

    Raises:
        UserError: the source is no folder or has errors, the destination has content, or the format would confuse two
            things.
    """
    if not source.is_dir():
        what = "is no folder" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}. Name the folder of a dataset; unpack an archive first.")
    if destination.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{destination} is inside {source}, which would change by it. Name a folder elsewhere.")
    findings = Findings(ValidateConfig())
    dataset = read_dataset(source, findings)
    table = _class_table(dataset)
    splits = {name: _images_of(source, split.images, table, findings) for name, split in dataset.items()}
    _refuse(source, findings)
    bare = _bare(dataset)
    notes = [f"{n} x {code}: see validate" for code, n in Counter(one.code for one in findings.all).items()]
    notes += [f"class {one.name!r}, the parent of others, has no object and is left out" for one in bare]
    categories = [one for one in table.values() if one.id not in {other.id for other in bare}]
    with _whole(destination) as folder:
        write = write_yolo if to == "yolo" else write_coco
        notes += write(folder, splits, categories, linking)
    count = sum(map(len, splits.values()))
    objects = sum(len(image.objects) for split in splits.values() for image in split)
    told = f"{destination}: {count} images, {objects} objects of {len(categories)} classes, as {to.upper()}"
    return "\n  ".join([told, *notes])


def _class_table(dataset: Dataset) -> dict[int, Category]:
    """The classes of all splits by id."""
    table: dict[int, Category] = {}
    for name, split in dataset.items():
        for one in split.categories:
            known = table.setdefault(one.id, one)
            if known.name != one.name:
                what = f"class id {one.id} is {shown(known.name)}, but in {name} {shown(one.name)}"
                raise UserError(f"{what}. Give all splits the same classes.")
            if not is_text(one.name):
                raise UserError(f"the name of class id {one.id} is {shown(one.name)}, no text. Name it.")
    doubled = [name for name, n in Counter(one.name for one in table.values()).items() if n > 1]
    if doubled:
        raise UserError(f"{shown(doubled[0])} is the name of several class ids. Give each class one id in all splits.")
    return dict(sorted(table.items()))


def _bare(dataset: Dataset) -> list[Category]:
    """Roboflow's root category: the parent of others, without an object of its own, in no split."""
    every = {one.id: one for split in dataset.values() for one in split.categories}.values()
    parents = {str(one.parent) for one in every if one.parent not in (one.name, None, "", "none")}
    used = {str(one.category) for split in dataset.values() for image in split.images for one in image.annotations}
    bare = [one for one in every if one.name in parents and str(one.id) not in used]
    return bare if len(bare) < len(every) else []


def _images_of(
    root: Path, records: list[ImageRecord], table: dict[int, Category], findings: Findings
) -> list[ExportedImage]:
    """The images of a split in the order of their paths, checked."""
    ids = _known_ids(root)
    shared = posixpath.commonpath([posixpath.dirname(record.path) for record in records]) if records else ""
    found = []
    for record in sorted(records, key=lambda record: record.path):
        path, place = root / record.path, Place(record.path, image=record.path)
        if leaves(root, record.path) or not path.is_file():
            findings.add("image-missing", place, "it is no file of the dataset folder")
            continue
        try:
            width, height = images.upright_size(path)
        except UserError as error:
            findings.add("image-unreadable", place, str(error))
            continue
        if (record.width, record.height) not in ((None, None), (width, height)):
            claimed = shown((record.width, record.height))
            findings.add("image-size-differs", place, f"it is {width} x {height}, but said to be {claimed}")
        frame = Frame(width, height, table)
        objects = [in_pixels(one, frame) for one in record.annotations]
        for one in objects:
            _check(one, frame, findings)
        image_id, object_ids = record.id, [one.place.annotation for one in objects]
        if image_id is None:
            image_id, object_ids = ids.get(record.path, (None, []))
        if len(object_ids) != len(objects):  # the label file was edited since
            object_ids = [None] * len(objects)
        name = posixpath.relpath(record.path, shared or ".")
        found.append(ExportedImage(path, name, width, height, image_id, objects, object_ids))
    return found


def _check(one: Annotation, frame: Frame, findings: Findings) -> None:
    for rule in ANNOTATION_RULES:
        what = rule.check(one, frame) if rule.check and rule.severity == "error" else None
        if what is not None:
            findings.add(rule.code, one.place, what)
            return


def _known_ids(root: Path) -> dict[str, tuple[int | None, list[int | None]]]:
    """The ids that an export to YOLO kept: of each image path its own and those of its lines."""
    path = root / IDS_FILE
    if not path.is_file():
        return {}
    content = files.read_json(path)
    rows: Any = content.items() if isinstance(content, dict) else [("its start", None)]
    known = {}
    for name, row in rows:
        good = isinstance(row, list) and len(row) == 2 and isinstance(row[1], list)
        if not good or any(type(one) is not int for one in (row[0], *row[1])):
            raise UserError(f"{path} is not as an export wrote it, at {shown(name)}. Remove it for new ids.")
        known[name] = (row[0], row[1])
    return known


def _refuse(source: Path, findings: Findings) -> None:
    """Stop at errors; a split that is missing is none here."""
    faults = [one for one in findings.stopping if one.code != "split-missing"]
    findings.all[:] = [one for one in findings.all if one.code != "split-missing"]
    if faults:
        places = [
            f"\n  {one.place.file}"
            + (f":{one.place.line}" if one.place.line else "")
            + (f" annotation {one.place.annotation}" if one.place.annotation is not None else "")
            + f": {one.what} ({one.code})"
            for one in faults[:_NAMED]
        ]
        raise UserError(f"{source} has {len(faults)} errors; mend them first, validate names all:{''.join(places)}")


@contextmanager
def _whole(destination: Path) -> Iterator[Path]:
    """A folder that becomes `destination` when the block succeeds, and is removed when it fails."""
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UserError(f"{destination} is no folder. Name a new or an empty one.")
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
        what = error.strerror or error
        raise UserError(f"cannot write {destination}: {what}. Nothing was written; try --images copy.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
