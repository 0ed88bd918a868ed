"""Splits that are missing, cut from train because params.yaml asks for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.ingest.config import SplitConfig
from rfdetr_core.ingest.names import digest_or_path, origin
from rfdetr_core.ingest.records import Dataset, Facts, ImageRecord

_BACKGROUND = -1


def cut_splits(dataset: Dataset, facts: Facts, config: SplitConfig) -> Dataset:
    """The dataset with the splits that `config` asks for, cut from train.

    Each class is shared out by the parts that are asked for, the rarest first, and so are images without objects
    (iterative stratification, Sechidis et al. 2011). Images of equal bytes and Roboflow's augmented copies of a picture
    stay together. The order of the draw is that of the SHA-256 of seed and image: neither names nor the order of files
    matter, and a few new images move few others.

    Raises:
        UserError: a split that is asked for is there.
    """
    parts = {name: Fraction(str(getattr(config, name))) for name in ("valid", "test")}
    wanted = {name: part for name, part in parts.items() if part}
    for name in wanted:
        if name in dataset:
            place = dataset[name].place.file
            raise UserError(f"validate.split.{name} asks for a {name} split, but {place} has one. Remove that key.")
    groups = _groups(dataset["train"].images, facts, config.seed)
    share = _share_out([_classes(group) for group in groups], wanted)
    made: dict[str, list[ImageRecord]] = {name: [] for name in ("train", *wanted)}
    for group, name in zip(groups, share, strict=True):
        made[name] += group
    return _with_splits(dataset, made)


def recut_splits(dataset: Dataset, splits: Mapping[str, str]) -> Dataset:
    """The dataset with train cut as before; splits: by path, the split of each image that was kept."""
    names = {"train", *splits.values()} - dataset.keys() | {"train"}
    made: dict[str, list[ImageRecord]] = {name: [] for name in sorted(names)}
    for record in dataset["train"].images:
        if splits.get(record.path) in made:
            made[splits[record.path]].append(record)
    return _with_splits(dataset, made)


def _with_splits(dataset: Dataset, made: Mapping[str, list[ImageRecord]]) -> Dataset:
    train = dataset["train"]
    return dataset | {name: replace(train, images=images) for name, images in made.items()}


def _groups(images: list[ImageRecord], facts: Facts, seed: int) -> list[list[ImageRecord]]:
    """Images that must stay together, in the order of the draw."""
    first: dict[str, str] = {}  # of each name or digest, the digest that its group is known by
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in sorted(images, key=lambda record: record.path):
        digest = digest_or_path(record.path, facts)
        copied = origin(record.path)
        keys = [digest] + ([copied] if copied else [])
        homes = sorted({first[key] for key in keys if key in first})
        home = homes[0] if homes else digest
        for other in homes[1:]:
            members[home] += members.pop(other)
            first.update({key: home for key, value in first.items() if value == other})
        first.update(dict.fromkeys(keys, home))
        members[home].append(record)
    return [members[home] for home in sorted(members, key=lambda home: files.sha256_bytes(f"{seed}:{home}".encode()))]


def _classes(group: list[ImageRecord]) -> Counter[int]:
    """How many images of a group have each class."""
    found: Counter[int] = Counter()
    for record in group:
        found.update({one.category for one in record.annotations if type(one.category) is int} or {_BACKGROUND})
    return found


def _share_out(groups: list[Counter[int]], parts: Mapping[str, Fraction]) -> list[str]:
    """A split for each group, so that each split of `parts` gets its part of every class; train gets the rest."""
    totals = Counter(one for group in groups for one in group.elements())
    desired = {name: {one: part * count for one, count in totals.items()} for name, part in parts.items()}
    share: dict[int, str] = {}
    for rarest in sorted(totals, key=lambda one: (totals[one], one)):
        left = [number for number, group in enumerate(groups) if rarest in group and number not in share]
        for number in left:
            # The first of the draw, so that a new image moves only those at the border.
            lacking = (name for name in desired if 2 * desired[name][rarest] >= groups[number][rarest])
            share[number] = name = next(lacking, "train")
            for one, count in groups[number].items() if name != "train" else ():
                desired[name][one] -= count
    return [share[number] for number in range(len(groups))]
