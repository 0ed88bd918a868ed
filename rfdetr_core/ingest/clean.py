"""From what a dataset's files say to what is kept of it: every check applied, everything unusable left out."""

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
from rfdetr_core.ingest.records import Annotation, Dataset, Facts, FileFacts, ImageRecord, Place, shown
from rfdetr_core.ingest.rules import ANNOTATION_RULES, EDGE, Frame, clipped
from rfdetr_core.ingest.split import cut_splits, recut_splits

# Most variants have 300 queries.
MOST_OBJECTS = 300
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
# Of copies: how they are alike, and the codes of those in one split and in two.
_EQUAL = ("has the bytes of", "image-doubled", "leakage")
_NEAR = ("looks like", "near-doubled", "near-leakage")
# By what is doubted of an image: code and text.
_DOUBTS = {
    "dark": ("range-unused", "have 16 bits and use a quarter of their range at most: 12 or 14 bits, not scaled up?"),
    "veiled": ("transparency-unlikely", "are half transparent nearly everywhere: is it a fourth colour, as infrared?"),
}


def check_units(dataset: Dataset, facts: Facts, findings: Findings) -> bool:
    """Find splits whose boxes are in another unit, or are corners, as a whole; True: no other check makes sense."""
    wrong = False
    for name, split in dataset.items():
        count = fractions = pixels = corners = beyond = 0
        for fact, one in ((facts.get(record.path), one) for record in split.images for one in record.annotations):
            box = drawable(one.box)
            if fact is None or fact.code or box is None:
                continue
            x, y, right, bottom = box
            count += 1
            pixels += one.relative and max(right, bottom) > 1.5
            fractions += not one.relative and min(box) >= 0 and max(box) <= 1 < max(fact.width, fact.height)
            corners += x < right <= fact.width + EDGE and y < bottom <= fact.height + EDGE
            beyond += not one.relative and (x + right > fact.width + EDGE or y + bottom > fact.height + EDGE)
        if count and fractions == count:
            what = f"all {count} boxes of {name} lie within 0 .. 1: parts of the image, not pixels"
            wrong |= findings.add("boxes-in-other-unit", split.place, what)
        elif pixels > 1 and 2 * pixels > count:
            what = f"{pixels} of {count} objects of {name} are larger than the image: pixels, not parts of it"
            wrong |= findings.add("boxes-in-other-unit", split.place, what)
        elif count > 2 and 2 * beyond >= count and 20 * corners >= 19 * count:
            what = f"{beyond} of {count} boxes of {name} go over the right or bottom edge, but fit into their images as"
            wrong |= findings.add("boxes-as-corners", split.place, f"{what} left, top, right, bottom")
    return wrong


def check_range(dataset: Dataset, facts: Facts, findings: Findings) -> None:
    """Find splits with images of which little is left in 8 bits of red, green and blue."""
    for split in dataset.values():
        of_doubt: dict[str, list[str]] = defaultdict(list)
        for path in sorted(record.path for record in split.images if record.path in facts):
            of_doubt[facts[path].doubt].append(path)
        for doubt, (code, what) in _DOUBTS.items():
            if paths := of_doubt[doubt]:
                what = f"{len(paths)} of {len(split.images)} images {what}. The first: {paths[0]}"
                findings.add(code, split.place, what)


def check_content(dataset: Dataset, splits: Mapping[str, list[CanonicalImage]], findings: Findings) -> None:
    """Find images of more objects than a model can find, and splits where some objects have a mask and some none.

    Images that must be left out are taken from `splits`.
    """
    for name, images in splits.items():
        bare, objects, first = 0, 0, ""
        for image in list(images):
            counted = [one for one in image.instances if not one.crowd]
            if len(counted) > MOST_OBJECTS:
                what = f"its {len(counted)} objects are more than the {MOST_OBJECTS} queries that most models have"
                if findings.add("many-objects", Place(image.path, image=image.path), what):
                    images.remove(image)
                    continue
            without = sum(one.segmentation is None for one in counted)
            first = first or image.path * bool(without)
            bare, objects = bare + without, objects + len(counted)
        if 0 < bare < objects:
            what = f"{bare} of {objects} objects of {name} have no mask, the first in {first}"
            findings.add("masks-incomplete", dataset[name].place, what)


@dataclass(frozen=True)
class CleanDataset:
    """What is kept: the class table and, of each of the three splits, the images sorted by path.

    pairs: images that are, or look, the same, whatever became of them. named: the paths of all images that the labels
    name, whatever became of them.
    """

    classes: list[ClassEntry]
    splits: dict[str, list[CanonicalImage]]
    pairs: list[Pair]
    named: frozenset[str] = frozenset()


class Pair(NamedTuple):
    """An image and one that it looks like; distance: 0 for equal bytes, else 1 less the correlation of thumbnails."""

    path: str
    other: str
    distance: float


def clean(
    root: Path,
    findings: Findings,
    facts_of: Callable[[list[str]], Iterable[tuple[str, FileFacts]]],
    kept: Mapping[str, str] | None = None,
) -> CleanDataset | None:
    """Read and check a dataset; None where its labels cannot be understood well enough to check what they say.

    facts_of: the facts about image files; images that it does not know are left out without a finding. Validation
    opens them, conversion has them from the manifests: so both keep the same. kept: in conversion, the split of each
    image, where validation has cut splits from train.

    Raises:
        UserError: no known layout, or a split that is to be cut is there.
    """
    dataset = read_dataset(root, findings)
    classes = read_classes(dataset, findings)
    if findings.broken:
        return None
    read = {record.path for split in dataset.values() for record in split.images}
    named = read.union(*(split.listed for split in dataset.values()))
    facts = dict(facts_of(sorted(read)))
    if findings.config.split is not None:
        if kept is None:
            together = findings.config.severities.get(_NEAR[2]) != "ignore"
            dataset = cut_splits(dataset, facts, findings.config.split, near_together=together)
        else:
            dataset = recut_splits(dataset, kept)
        classes = replace(classes, by_id={name: classes.by_id.get(name, classes.by_id["train"]) for name in dataset})
    out, pairs = _find_copies(dataset, facts, findings)
    # What these leave out is missing from the manifests: conversion has nothing to look for.
    if kept is None:
        check_files(root, dataset, findings)
        out |= check_names(dataset, facts, findings)
        check_range(dataset, facts, findings)
        if check_units(dataset, facts, findings):
            return None
    splits: dict[str, list[CanonicalImage]] = {name: [] for name in SPLITS}
    for name, split in dataset.items():
        for record in sorted(split.images, key=lambda record: record.path):
            fact = facts.get(record.path)
            if fact is None or (name, record.path) in out or _is_faulty(record, fact, findings):
                continue
            instances = _keep(record, fact, classes.by_id[name], findings)
            size = fact.width, fact.height
            splits[name].append(
                CanonicalImage(record.path, fact.sha256, *size, instances, record.metadata, fact.pixels)
            )
            record.annotations = []  # of many images, both forms together would fill the memory
    check_content(dataset, splits, findings)
    _check_sufficiency(dataset, classes.entries, splits, findings)
    return CleanDataset(classes.entries, splits, pairs, frozenset(named))


def _find_copies(dataset: Dataset, facts: Facts, findings: Findings) -> tuple[set[tuple[str, str]], list[Pair]]:
    """Note images of the same bytes or the same look; those that must be left out, as split and path, and all pairs.

    The first in test, valid, train stands: of a copy in train and test the finding names the one in train.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in (name for name in reversed(SPLITS) if name in dataset):
        for path in sorted(record.path for record in dataset[name].images):
            if path in facts and facts[path].code is None:
                groups[facts[path].sha256].append((name, path))
    different = list(groups.values())
    found = [(one, group[0], 0.0, _EQUAL) for group in different for one in group[1:]]
    thumbnails = [facts[group[0][1]].thumbnail for group in different]
    splits = [-SPLITS.index(group[0][0]) for group in different]
    # Conversion has no thumbnails: it finds what validation left out in the manifests.
    for near in find_near(thumbnails, splits) if all(thumbnails) else ():
        found += [(one, different[near.earlier][0], near.distance, _NEAR) for one in different[near.number]]
    out, pairs = set(), []
    for (name, path), (other_split, other), distance, (how, doubled, leaked) in found:
        code = doubled if name == other_split else leaked
        if findings.add(code, Place(path, image=path), f"it {how} {other}, which is in {other_split}"):
            out.add((name, path))
        pairs.append(Pair(path, other, distance))
    return out, pairs


def _is_faulty(record: ImageRecord, fact: FileFacts, findings: Findings) -> bool:
    """Whether an image must be left out for its file, or for a size unlike the one that is claimed."""
    place = Place(record.path, image=record.path)
    if fact.code:
        return findings.add(fact.code, place, f"{record.place.file} names it, but {fact.fault}")
    claimed, real = (record.width, record.height), (fact.width, fact.height)
    out = False
    told = next((kind for kind, suffixes in _SUFFIXES.items() if record.path.lower().endswith(suffixes)), fact.kind)
    if fact.kind and told != fact.kind:
        out = findings.add("image-of-other-kind", place, f"by its content it is a {fact.kind}")
    if fact.several:
        out |= findings.add("image-with-frames", place, "it has several frames or pages")
    if claimed in ((None, None), real):
        return out
    turned = "; was its EXIF orientation ignored?" if claimed == real[::-1] else ""
    what = f"{record.place.file} says {shown(claimed)}, the picture is {real}{turned}"
    return findings.add("image-size-differs", place, what) or out


def _keep(
    record: ImageRecord, fact: FileFacts, table: Mapping[int, ClassEntry | None], findings: Findings
) -> list[Instance]:
    """The instances of an image that pass the checks, in order."""
    frame = Frame(fact.width, fact.height, table)
    kept: dict[Box, list[Instance]] = defaultdict(list)
    for raw in record.annotations:
        one = _check(in_pixels(raw, frame), frame, findings)
        entry = table[one.category] if one else None
        if one is None or entry is None:
            continue
        made = Instance.of(clipped(one, frame), entry)
        same = kept[made.box]
        if made in same:
            out = findings.add("annotation-doubled", raw.place, f"the same {entry.name} at {made.box}", made.box)
        else:
            what = f"a {entry.name} has the box of a {same[0].entry.name}" if same else ""
            out = bool(same) and findings.add("box-doubled", raw.place, f"{what}, {made.box}", made.box)
        if not out:
            same.append(made)
    return sorted((one for group in kept.values() for one in group), key=Instance.order)


def _check(one: Annotation, frame: Frame, findings: Findings) -> Annotation | None:
    for rule in ANNOTATION_RULES:
        what = rule.check(one, frame) if rule.check else None
        if what is not None and findings.add(rule.code, one.place, what, one.box):
            return None
        one = rule.mend(one) if what is not None and rule.mend else one
    return one


def in_pixels(one: Annotation, frame: Frame) -> Annotation:
    """An annotation in pixels, whichever unit its format has."""
    if not one.relative:
        return one
    sides = (frame.width, frame.height)
    shapes = [[value * sides[k % 2] for k, value in enumerate(shape)] for shape in (one.box, *(one.segmentation or []))]
    return replace(one, box=shapes[0], segmentation=shapes[1:], relative=False)


def _check_sufficiency(
    dataset: Dataset, classes: list[ClassEntry], splits: dict[str, list[CanonicalImage]], findings: Findings
) -> None:
    """Find splits and classes that have too little left to train, to select or to score."""
    used: dict[str, set[ClassEntry]] = {}
    for name, images in splits.items():
        used[name] = {one.entry for image in images for one in image.instances if not one.crowd}
    for name, split in dataset.items():
        if not used[name]:
            code = "test-empty" if name == "test" else "split-empty"
            findings.add(code, split.place, f"{name} has no {'object' if splits[name] else 'image'}")
    for entry in classes:
        elsewhere = " and ".join(name for name in SPLITS if entry in used[name])
        if used["train"] and entry not in used["train"]:
            code = "class-untrained" if elsewhere else "class-unused"
            what = f"class {shown(entry.name)} has no object{f' in train, but in {elsewhere}' if elsewhere else ''}"
            findings.add(code, dataset["train"].place, what)
