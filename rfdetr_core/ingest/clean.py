"""From what a dataset's files say to what is kept of it: every check applied, everything unusable left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rfdetr_core.ingest.canonical import CanonicalImage, Instance
from rfdetr_core.ingest.checks import ANNOTATION_RULES, Frame, clipped
from rfdetr_core.ingest.classes import read_classes
from rfdetr_core.ingest.examine import FileFacts
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import read_dataset
from rfdetr_core.ingest.geometry import Box
from rfdetr_core.ingest.records import Annotation, Dataset, ImageRecord, Place, shown
from rfdetr_core.manifest import SPLITS, ClassEntry

Table = Mapping[int, ClassEntry | None]


@dataclass(frozen=True)
class CleanDataset:
    """What is kept: the class table and, of each of the three splits, the images sorted by path."""

    classes: list[ClassEntry]
    splits: dict[str, list[CanonicalImage]]


def clean(
    root: Path, findings: Findings, facts_of: Callable[[Path, list[str]], Iterable[tuple[str, FileFacts]]]
) -> CleanDataset | None:
    """Read and check a dataset; None where its labels cannot be understood well enough to check what they say.

    facts_of: the facts about image files; images that it does not know are left out without a finding. Validation
    opens them, conversion has them from the manifests: so both keep the same.

    Raises:
        UserError: no known layout.
    """
    dataset = read_dataset(root, findings)
    classes = read_classes(dataset, findings)
    if findings.broken:
        return None
    facts = dict(facts_of(root, sorted({record.path for split in dataset.values() for record in split.images})))
    copies = _find_copies(dataset, facts, findings)
    splits: dict[str, list[CanonicalImage]] = {name: [] for name in SPLITS}
    for name, split in dataset.items():
        for record in sorted(split.images, key=lambda record: record.path):
            fact = facts.get(record.path)
            if fact is None or (name, record.path) in copies or _is_faulty(record, fact, findings):
                continue
            instances = _keep(
                record, Frame(fact.width, fact.height, classes.by_id[name]), classes.by_id[name], findings
            )
            splits[name].append(CanonicalImage(record.path, fact.sha256, fact.width, fact.height, instances))
    _check_sufficiency(dataset, classes.entries, splits, findings)
    return CleanDataset(classes.entries, splits)


def _find_copies(dataset: Dataset, facts: Mapping[str, FileFacts], findings: Findings) -> set[tuple[str, str]]:
    """Note images of the same bytes; those that must be left out, as split and path.

    The first in test, valid, train stands: of a copy in train and test the finding names the one in train.
    """
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for name in (name for name in reversed(SPLITS) if name in dataset):
        for path in sorted(record.path for record in dataset[name].images):
            if path in facts and facts[path].code is None:
                groups[facts[path].sha256].append((name, path))
    out = set()
    for (first_split, first), *others in groups.values():
        for name, path in others:
            code = "image-doubled" if name == first_split else "leakage"
            if findings.add(code, Place(path, image=path), f"it has the bytes of {first}, which is in {first_split}"):
                out.add((name, path))
    return out


def _is_faulty(record: ImageRecord, fact: FileFacts, findings: Findings) -> bool:
    """Whether an image must be left out for its file, or for a size unlike the one that is claimed."""
    place = Place(record.path, image=record.path)
    if fact.code:
        return findings.add(fact.code, place, f"{record.place.file} names it: {fact.fault}")
    claimed, real = (record.width, record.height), (fact.width, fact.height)
    if claimed in ((None, None), real):
        return False
    turned = "; was its EXIF orientation ignored?" if claimed == real[::-1] else ""
    what = f"{record.place.file} says {shown(claimed)}, the picture is {real}{turned}"
    return findings.add("image-size-differs", place, what)


def _keep(record: ImageRecord, frame: Frame, table: Table, findings: Findings) -> list[Instance]:
    """The instances of an image that pass the checks, in order."""
    kept: dict[tuple[int, Box], list[Instance]] = defaultdict(list)
    for raw in record.annotations:
        one = _check(_in_pixels(raw, frame), frame, findings)
        entry = table[one.category] if one else None
        if one is None or entry is None:
            continue
        made = Instance.of(clipped(one, frame), entry)
        same = kept[entry.index, made.box]
        if made not in same or not findings.add(
            "annotation-doubled", raw.place, f"the same {entry.name} at {made.box}"
        ):
            same.append(made)
    return sorted((one for group in kept.values() for one in group), key=Instance.order)


def _check(one: Annotation, frame: Frame, findings: Findings) -> Annotation | None:
    for rule in ANNOTATION_RULES:
        what = rule.check(one, frame) if rule.check else None
        if what is not None and findings.add(rule.code, one.place, what):
            return None
        one = rule.mend(one) if what is not None and rule.mend else one
    return one


def _in_pixels(one: Annotation, frame: Frame) -> Annotation:
    if not one.relative:
        return one
    sides = (frame.width, frame.height)
    shapes = [[value * sides[k % 2] for k, value in enumerate(shape)] for shape in (one.box, *(one.segmentation or []))]
    return replace(one, box=shapes[0], segmentation=shapes[1:], relative=False)


def _check_sufficiency(
    dataset: Dataset, classes: list[ClassEntry], splits: dict[str, list[CanonicalImage]], findings: Findings
) -> None:
    """Find splits and classes that have too little left to train, to select or to score."""
    used = {name: {one.entry for image in images for one in image.instances} for name, images in splits.items()}
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
