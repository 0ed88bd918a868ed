"""Cutting missing splits from train, as `validate.split` in params.yaml asks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.config import SplitConfig
from rfdetr_core.ingest.duplicates import find_near
from rfdetr_core.ingest.names import digest_or_path, roboflow_source
from rfdetr_core.ingest.records import Dataset, Facts, ImageRecord

_BACKGROUND = -1


def cut_splits(dataset: Dataset, facts: Facts, config: SplitConfig, *, near_together: bool = True) -> Dataset:
    """Move images of train into the new splits that `config` asks for.

    The images are divided so that each split gets the requested fraction of every class, and of the images without
    objects. The rarest class is divided first (iterative stratification, Sechidis et al. 2011). Some images stay
    together in one split: images with equal bytes, Roboflow's augmented copies of a picture and, with near_together,
    images that look alike. The images are drawn in the order of the SHA-256 of the seed and the image. So the names and
    the order of the files do not matter, and a few new images change the split of few other images.

    Args:
        dataset: the records of all splits that the dataset has.
        facts: the facts about the images, by path.
        config: the fractions and the seed.
        near_together: keep images that look alike in one split.

    Raises:
        UserError: a requested split already exists, or gets no image because too many images stay together.
    """
    parts = {name: Fraction(str(getattr(config, name))) for name in ("valid", "test")}
    shares = {name: part for name, part in parts.items() if part}
    for name in shares:
        if name in dataset:
            place = dataset[name].place.file
            raise UserError(
                f"validate.split.{name} asks for a {name} split, but {place} already has one. Remove "
                f"validate.split.{name}."
            )
    images = dataset["train"].images
    groups = _Groups(images, facts)
    if near_together:
        groups.join(_near({"train": images}, facts))
    drawn_splits = _draw(groups, shares, config.seed)
    # The search between two splits finds a few pairs that the search within train misses. If it finds any, their groups
    # are joined and the splits are drawn again.
    while near_together and groups.join(_near(drawn_splits, facts)):
        drawn_splits = _draw(groups, shares, config.seed)
    largest = max(map(len, groups.in_order(config.seed)), default=0)
    for name, part in shares.items():
        if not drawn_splits[name] and largest > 2 * part * len(images):
            raise UserError(
                f"validate.split.{name} leaves {name} without an image: {largest} of {len(images)} images of train "
                "are copies or look alike, so they stay in one split. Make the splits by hand, or ask for a larger "
                "fraction. To separate images that only look alike: validate.severities: {near-leakage: ignore}"
            )
    return _with_splits(dataset, drawn_splits)


def recut_splits(dataset: Dataset, splits: Mapping[str, str]) -> Dataset:
    """Divide train again as validation divided it. splits: image path -> split, for each image that was kept."""
    names = {"train", *splits.values()} - dataset.keys() | {"train"}
    images_of: dict[str, list[ImageRecord]] = {name: [] for name in sorted(names)}
    for record in dataset["train"].images:
        if splits.get(record.path) in images_of:
            images_of[splits[record.path]].append(record)
    return _with_splits(dataset, images_of)


def _with_splits(dataset: Dataset, images_of: Mapping[str, list[ImageRecord]]) -> Dataset:
    train = dataset["train"]
    return dataset | {name: replace(train, images=images) for name, images in images_of.items()}


class _Groups:
    """Groups of images that must stay together. The smallest digest in a group identifies it."""

    def __init__(self, images: list[ImageRecord], facts: Facts) -> None:
        self._digests = {record.path: digest_or_path(record.path, facts) for record in images}
        self._records = sorted(images, key=lambda record: record.path)
        self._next: dict[str, str] = {}  # union-find: name or digest -> its parent; a root is its own parent
        for record in self._records:
            copied = roboflow_source(record.path)
            self._join(self._digests[record.path], *([copied] if copied else []))

    def join(self, pairs: Iterable[tuple[str, str]]) -> bool:
        """Put both images of each pair of paths into one group. Returns False if all pairs were together already."""
        return sum(self._join(self._digests[first], self._digests[second]) for first, second in pairs) > 0

    def in_order(self, seed: int) -> list[list[ImageRecord]]:
        """The groups, in the order of the draw."""
        members: dict[str, list[ImageRecord]] = defaultdict(list)
        for record in self._records:
            members[self._root_of(self._digests[record.path])].append(record)
        return [
            members[root]
            for root in sorted(members, key=lambda digest: files.sha256_bytes(f"{seed}:{digest}".encode()))
        ]

    def _root_of(self, key: str) -> str:
        while (nearer := self._next[key]) != key:
            self._next[key] = self._next[nearer]
            key = nearer
        return key

    def _join(self, *keys: str) -> bool:
        roots = sorted({self._root_of(key) for key in keys if key in self._next})
        self._next |= dict.fromkeys((*keys, *roots), roots[0] if roots else keys[0])
        return len(roots) > 1


def _draw(groups: _Groups, shares: Mapping[str, Fraction], seed: int) -> dict[str, list[ImageRecord]]:
    """The images of each split."""
    drawn = groups.in_order(seed)
    images_of: dict[str, list[ImageRecord]] = {name: [] for name in ("train", *shares)}
    for group, name in zip(drawn, _share_out([_classes(group) for group in drawn], shares), strict=True):
        images_of[name] += group
    return images_of


def _near(images_of: Mapping[str, list[ImageRecord]], facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield pairs of paths whose images validation would report as looking alike."""
    first_of: dict[str, tuple[int, str]] = {}  # by digest
    for name, images in images_of.items():
        paths = (record.path for record in images if record.path in facts)
        first_of |= {facts[path].sha256: (-SPLITS.index(name), path) for path in paths if facts[path].thumbnail}
    order = sorted((rank, digest) for digest, (rank, _) in first_of.items())
    thumbnails = [facts[first_of[digest][1]].thumbnail for _, digest in order]
    for near in find_near(thumbnails, [rank for rank, _ in order]) if order else ():
        yield first_of[order[near.number][1]][1], first_of[order[near.earlier][1]][1]


def _classes(group: list[ImageRecord]) -> Counter[int]:
    """For each class, how many images of a group have it."""
    counts: Counter[int] = Counter()
    for record in group:
        counts.update(
            {annotation.category for annotation in record.annotations if type(annotation.category) is int}
            or {_BACKGROUND}
        )
    return counts


def _share_out(groups: list[Counter[int]], parts: Mapping[str, Fraction]) -> list[str]:
    """A split for each group. Each split of `parts` gets its fraction of every class; train gets the rest."""
    totals = Counter(class_id for group in groups for class_id in group.elements())
    desired = {name: {class_id: part * count for class_id, count in totals.items()} for name, part in parts.items()}
    share: dict[int, str] = {}
    for rarest in sorted(totals, key=lambda class_id: (totals[class_id], class_id)):
        unassigned = [number for number, group in enumerate(groups) if rarest in group and number not in share]
        for number in unassigned:
            # In the order of the draw, so that a new image moves only images at the border between splits.
            lacking = (name for name in desired if 2 * desired[name][rarest] >= groups[number][rarest])
            share[number] = name = next(lacking, "train")
            for class_id, count in groups[number].items() if name != "train" else ():
                desired[name][class_id] -= count
    return [share[number] for number in range(len(groups))]
