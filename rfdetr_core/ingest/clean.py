"""Applies every check to the records of a dataset, and leaves out unusable images and objects: `clean`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from rfdetr_core.base.manifest import SPLITS, ClassEntry
from rfdetr_core.ingest.canonical import CanonicalImage, Instance
from rfdetr_core.ingest.classes import read_classes
from rfdetr_core.ingest.duplicates import find_near
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import read_dataset
from rfdetr_core.ingest.geometry import Box, drawable
from rfdetr_core.ingest.names import check_files, check_names
from rfdetr_core.ingest.records import Annotation, Dataset, Facts, FileFacts, ImageRecord, Place, short_repr
from rfdetr_core.ingest.rules import ANNOTATION_RULES, EDGE, Frame, clipped
from rfdetr_core.ingest.split import cut_splits, recut_splits

# Most variants have 300 queries, so they detect at most 300 objects in an image.
MOST_OBJECTS = 300
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
# For two copies: (the verb of the message, finding code if both are in one split, finding code if they are in two).
_EQUAL = ("has the same bytes as", "image-doubled", "leakage")
_NEAR = ("looks like", "near-doubled", "near-leakage")
# `FileFacts.doubt` -> code and message.
_DOUBTS = {
    "dark": (
        "range-unused",
        "have 16 bits but use at most a quarter of the range. Do they have 12 or 14 bits that were not scaled up?",
    ),
    "veiled": (
        "transparency-unlikely",
        "are half transparent nearly everywhere. Is the fourth channel a colour, such as infrared?",
    ),
}


def check_units(dataset: Dataset, facts: Facts, findings: Findings) -> bool:
    """Find splits whose boxes are all in the wrong unit, or have two corners instead of a corner and a size.

    Args:
        dataset: the records of all splits that the dataset has.
        facts: the facts about the images, by path. Objects of an image without facts do not count.
        findings: collects the findings.

    Returns:
        True if such a finding stops the run. Then no other check of the boxes makes sense.
    """
    wrong = False
    for name, split in dataset.items():
        count = fractions = pixels = corners = beyond_edge = 0
        for fact, annotation in (
            (facts.get(record.path), annotation) for record in split.images for annotation in record.annotations
        ):
            box = drawable(annotation.box)
            if fact is None or fact.code or box is None:
                continue
            x, y, right, bottom = box  # the last two are width and height, unless the boxes are corners
            count += 1
            pixels += annotation.relative and max(right, bottom) > 1.5
            fractions += not annotation.relative and min(box) >= 0 and max(box) <= 1 < max(fact.width, fact.height)
            corners += x < right <= fact.width + EDGE and y < bottom <= fact.height + EDGE
            beyond_edge += not annotation.relative and (
                x + right > fact.width + EDGE or y + bottom > fact.height + EDGE
            )
        if count and fractions == count:
            message = (
                f"all {count} boxes of {name} have values from 0 to 1, so they are fractions of the image, not pixels"
            )
            wrong |= findings.add("boxes-in-other-unit", split.place, message)
        elif pixels > 1 and 2 * pixels > count:
            message = (
                f"{pixels} of {count} boxes of {name} are larger than the image, so they are pixels, not fractions"
            )
            wrong |= findings.add("boxes-in-other-unit", split.place, message)
        elif count > 2 and 2 * beyond_edge >= count and 20 * corners >= 19 * count:
            message = f"{beyond_edge} of {count} boxes of {name} go over the right or bottom edge. "
            message += "Read as left, top, right, bottom, all or nearly all fit into their images"
            wrong |= findings.add("boxes-as-corners", split.place, message)
    return wrong


def check_range(dataset: Dataset, facts: Facts, findings: Findings) -> None:
    """Find splits whose images lose most of their content when they are converted to 8 bits of red, green and blue.

    Args:
        dataset: the records of all splits that the dataset has.
        facts: the facts about the images, by path. An image without facts does not count.
        findings: collects the findings.
    """
    for split in dataset.values():
        by_doubt: dict[str, list[str]] = defaultdict(list)
        for path in sorted(record.path for record in split.images if record.path in facts):
            by_doubt[facts[path].doubt].append(path)
        for doubt, (code, text) in _DOUBTS.items():
            if paths := by_doubt[doubt]:
                message = f"{len(paths)} of {len(split.images)} images {text} The first: {paths[0]}"
                findings.add(code, split.place, message)


def check_content(dataset: Dataset, splits: Mapping[str, list[CanonicalImage]], findings: Findings) -> None:
    """Find images with more objects than a model can detect, and splits where only some objects have a mask.

    Args:
        dataset: the records of all splits that the dataset has. Findings name their label files.
        splits: the kept images by split. Images that must be left out are removed from it.
        findings: collects the findings.
    """
    for name, images in splits.items():
        without_mask, objects, first_without = 0, 0, ""
        for image in list(images):
            counted = [instance for instance in image.instances if not instance.crowd]
            if len(counted) > MOST_OBJECTS:
                message = f"it has {len(counted)} objects, more than the {MOST_OBJECTS} queries of most models"
                if findings.add("many-objects", Place(image.path, image=image.path), message):
                    images.remove(image)
                    continue
            missing = sum(instance.segmentation is None for instance in counted)
            first_without = first_without or image.path * bool(missing)
            without_mask, objects = without_mask + missing, objects + len(counted)
        if 0 < without_mask < objects:
            message = f"{without_mask} of {objects} objects of {name} have no mask. The first is in {first_without}"
            findings.add("masks-incomplete", dataset[name].place, message)


@dataclass(frozen=True)
class CleanDataset:
    """The images and objects that are kept.

    classes: the class table. splits: the images of train, valid and test, each sorted by path. pairs: images that are
    copies or look alike, also if one of them was left out. named: the paths of all images that label files list, also
    of those that were left out.
    """

    classes: list[ClassEntry]
    splits: dict[str, list[CanonicalImage]]
    pairs: list[Pair]
    named: frozenset[str] = frozenset()


class Pair(NamedTuple):
    """Two images that are copies or look alike. distance: 0 for equal bytes, else 1 - correlation of the thumbnails."""

    path: str
    other: str
    distance: float


def clean(
    root: Path,
    findings: Findings,
    facts_of: Callable[[list[str]], Iterable[tuple[str, FileFacts]]],
    split_of_path: Mapping[str, str] | None = None,
) -> CleanDataset | None:
    """Read and check a dataset.

    Args:
        root: the dataset folder.
        findings: collects the findings.
        facts_of: gives the facts about image files, by path. In validation, it decodes the files. In conversion, it
            reads the manifests. An image without facts is left out without a finding, so both keep the same images.
        split_of_path: in conversion, the split of each image that validation kept. None in validation.

    Returns:
        The kept images and objects; None if the labels cannot be read well enough to check them.

    Raises:
        UserError: the layout is unknown, or a split that should be cut from train already exists.
    """
    dataset = read_dataset(root, findings)
    classes = read_classes(dataset, findings)
    if findings.broken:
        return None
    read = {record.path for split in dataset.values() for record in split.images}
    named = read.union(*(split.listed for split in dataset.values()))
    facts = dict(facts_of(sorted(read)))
    if findings.config.split is not None:
        if split_of_path is None:
            near_together = findings.config.severities.get(_NEAR[2]) != "ignore"
            dataset = cut_splits(dataset, facts, findings.config.split, near_together=near_together)
        else:
            dataset = recut_splits(dataset, split_of_path)
        classes = replace(classes, by_id={name: classes.by_id.get(name, classes.by_id["train"]) for name in dataset})
    left_out, pairs = _find_copies(dataset, facts, findings)
    # Only in validation. Images that these checks leave out are not in the manifests, so conversion does not see them.
    if split_of_path is None:
        check_files(root, dataset, findings)
        left_out |= check_names(dataset, facts, findings)
        check_range(dataset, facts, findings)
        if check_units(dataset, facts, findings):
            return None
    splits: dict[str, list[CanonicalImage]] = {name: [] for name in SPLITS}
    for name, split in dataset.items():
        for record in sorted(split.images, key=lambda record: record.path):
            fact = facts.get(record.path)
            if fact is None or (name, record.path) in left_out or _is_unusable(record, fact, findings):
                continue
            instances = _keep(record, fact, classes.by_id[name], findings)
            size = fact.width, fact.height
            splits[name].append(
                CanonicalImage(record.path, fact.sha256, *size, instances, record.metadata, fact.pixels)
            )
            record.annotations = []  # frees memory: the canonical image replaces them
    check_content(dataset, splits, findings)
    _check_sufficiency(dataset, classes.entries, splits, findings)
    return CleanDataset(classes.entries, splits, pairs, frozenset(named))


def _find_copies(dataset: Dataset, facts: Facts, findings: Findings) -> tuple[set[tuple[str, str]], list[Pair]]:
    """Find images with equal bytes and images that look alike.

    Returns the images that must be left out, as (split, path), and all pairs. The first image in the order test, valid,
    train is the original, and each later image gets the finding. So of equal images in test and train, the image in
    train is the copy.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in (name for name in reversed(SPLITS) if name in dataset):
        for path in sorted(record.path for record in dataset[name].images):
            if path in facts and facts[path].code is None:
                groups[facts[path].sha256].append((name, path))
    different = list(groups.values())
    copies = [(copy, group[0], 0.0, _EQUAL) for group in different for copy in group[1:]]
    thumbnails = [facts[group[0][1]].thumbnail for group in different]
    splits = [-SPLITS.index(group[0][0]) for group in different]
    # Conversion has no thumbnails and needs none: images that validation left out are not in the manifests.
    for near in find_near(thumbnails, splits) if all(thumbnails) else ():
        copies += [(copy, different[near.earlier][0], near.distance, _NEAR) for copy in different[near.number]]
    left_out, pairs = set(), []
    for (name, path), (other_split, other_path), distance, (how, doubled, leaked) in copies:
        code = doubled if name == other_split else leaked
        if findings.add(code, Place(path, image=path), f"it {how} {other_path}, which is in {other_split}"):
            left_out.add((name, path))
        pairs.append(Pair(path, other_path, distance))
    return left_out, pairs


def _is_unusable(record: ImageRecord, fact: FileFacts, findings: Findings) -> bool:
    """Whether an image must be left out because of its file, or because the labels state another size."""
    place = Place(record.path, image=record.path)
    if fact.code:
        return findings.add(fact.code, place, f"{record.place.file} lists this image, but {fact.message}")
    claimed, actual = (record.width, record.height), (fact.width, fact.height)
    left_out = False
    kind_of_suffix = next(
        (kind for kind, suffixes in _SUFFIXES.items() if record.path.lower().endswith(suffixes)), fact.kind
    )
    if fact.kind and kind_of_suffix != fact.kind:
        left_out = findings.add(
            "image-of-other-kind", place, f"its content is {fact.kind}, but its suffix names another format"
        )
    if fact.several:
        left_out |= findings.add("image-with-frames", place, "it has several frames or pages")
    if claimed in ((None, None), actual):
        return left_out
    turned = ". Was its EXIF orientation ignored?" if claimed == actual[::-1] else ""
    message = f"{record.place.file} states the size {short_repr(claimed)}, but the picture has {actual}{turned}"
    return findings.add("image-size-differs", place, message) or left_out


def _keep(
    record: ImageRecord, fact: FileFacts, table: Mapping[int, ClassEntry | None], findings: Findings
) -> list[Instance]:
    """The instances of an image that pass the checks, in order."""
    frame = Frame(fact.width, fact.height, table)
    by_box: dict[Box, list[Instance]] = defaultdict(list)
    for raw in record.annotations:
        annotation = _check(in_pixels(raw, frame), frame, findings)
        entry = table[annotation.category] if annotation else None
        if annotation is None or entry is None:
            continue
        kept = Instance.from_annotation(clipped(annotation, frame), entry)
        same_box = by_box[kept.box]
        if kept in same_box:
            left_out = findings.add(
                "annotation-doubled", raw.place, f"another annotation is equal: {entry.name}, box {kept.box}", kept.box
            )
        else:
            message = f"a {entry.name} has the same box as a {same_box[0].entry.name}" if same_box else ""
            left_out = bool(same_box) and findings.add("box-doubled", raw.place, f"{message}: {kept.box}", kept.box)
        if not left_out:
            same_box.append(kept)
    return sorted((instance for group in by_box.values() for instance in group), key=Instance.order)


def _check(annotation: Annotation, frame: Frame, findings: Findings) -> Annotation | None:
    for rule in ANNOTATION_RULES:
        message = rule.check(annotation, frame) if rule.check else None
        if message is not None and findings.add(rule.code, annotation.place, message, annotation.box):
            return None
        annotation = rule.repair(annotation) if message is not None and rule.repair else annotation
    return annotation


def in_pixels(annotation: Annotation, frame: Frame) -> Annotation:
    """An annotation in pixels, whatever unit its format uses."""
    if not annotation.relative:
        return annotation
    sides = (frame.width, frame.height)
    shapes = [
        [value * sides[k % 2] for k, value in enumerate(shape)]
        for shape in (annotation.box, *(annotation.segmentation or []))
    ]
    return replace(annotation, box=shapes[0], segmentation=shapes[1:], relative=False)


def _check_sufficiency(
    dataset: Dataset, classes: list[ClassEntry], splits: dict[str, list[CanonicalImage]], findings: Findings
) -> None:
    """Find splits and classes with too few kept images or objects for training, selection or scoring."""
    used: dict[str, set[ClassEntry]] = {}
    for name, images in splits.items():
        used[name] = {instance.entry for image in images for instance in image.instances if not instance.crowd}
    for name, split in dataset.items():
        if not used[name]:
            code = "test-empty" if name == "test" else "split-empty"
            findings.add(code, split.place, f"{name} has no {'object' if splits[name] else 'image'}")
    for entry in classes:
        elsewhere = " and ".join(name for name in SPLITS if entry in used[name])
        if used["train"] and entry not in used["train"]:
            code = "class-untrained" if elsewhere else "class-unused"
            message = f"class {short_repr(entry.name)} has no object"
            message += f" in train, but has some in {elsewhere}" if elsewhere else ""
            findings.add(code, dataset["train"].place, message)
