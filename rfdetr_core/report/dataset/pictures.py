"""Chooses the images that the dataset report shows, and draws their objects as shapes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.canonical import CanonicalImage, Instance
from rfdetr_core.ingest.clean import CleanDataset, Pair
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.report.gallery import Card, Gallery, Group, Picture, Shape
from rfdetr_core.report.tables import Name
from rfdetr_core.report.text import hue, plural
from rfdetr_core.report.thumbnails import Thumbnails, polygon_path, rle_path, scaled

_MOST_SHAPES = 150  # the most objects drawn in a picture: the largest ones
_MOST, _SIDE = 36, 416  # the most pictures, and their longer side in pixels
_PAIRS, _PAIR_SIDE = 24, 288  # the most pairs of copies, and the longer side of their pictures in pixels


class PairOfCopies(NamedTuple):
    """Two images that are equal or look the same. about: a text that says how similar they are."""

    about: str
    in_two_splits: bool
    cards: Gallery


class Pairs(NamedTuple):
    """Pairs of copies. total: their number. shown: some of them, with pictures."""

    total: int
    shown: Sequence[PairOfCopies]


def annotated(thumbnails: Thumbnails, image: CanonicalImage, side: int) -> Picture | None:
    """A picture of an image with its objects. If there are many: the largest. A shape's group is its class index.

    Args:
        thumbnails: Makes the picture. If it cannot, the result is None.
        image: The image with its objects.
        side: The longer side of the picture in pixels, at most.
    """
    picture = thumbnails.image(image.path, side, (image.width, image.height))
    if picture is None:
        return None
    scale = picture.width / image.width, picture.height / image.height
    drawn = sorted(image.instances, key=lambda instance: -instance.box[2] * instance.box[3])[:_MOST_SHAPES]
    return picture._replace(shapes=[_shape(instance, image, scale) for instance in drawn])


def _shape(instance: Instance, image: CanonicalImage, scale: tuple[float, float]) -> Shape:
    outline = ""
    if isinstance(instance.segmentation, dict):
        outline = rle_path(instance.segmentation["counts"], (image.width, image.height), instance.box, scale)
    elif instance.segmentation:
        outline = "".join(polygon_path(polygon, scale) for polygon in instance.segmentation)
    return scaled(Shape(instance.entry.index, *instance.box, "crowd" if instance.crowd else "", outline), scale)


def choose(dataset: CleanDataset, number: int) -> Iterator[tuple[str, CanonicalImage]]:
    """Choose `number` images. The splits take turns.

    In its turn, a split adds an image of the class that has the fewest chosen images of this split so far.
    """
    chosen = {name: _spread(dataset.splits[name], number) for name in SPLITS}
    images: dict[str, list[CanonicalImage]] = {name: [] for name in SPLITS}
    while number > 0 and chosen:
        for name in list(chosen):
            image = next(chosen[name], None)
            if image is None:
                del chosen[name]
            elif number > 0:
                images[name].append(image)
                number -= 1
    return ((name, image) for name in SPLITS for image in sorted(images[name], key=lambda image: image.path))


def _spread(split: list[CanonicalImage], number: int) -> Iterator[CanonicalImage]:
    """At most `number` images of a split, rare classes first.

    Images of a class are taken in the order of their digests, because consecutive files are often alike.
    """
    by_label: dict[int, list[CanonicalImage]] = defaultdict(list)
    for image in sorted(split, key=lambda image: (image.sha256, image.path), reverse=True):
        for label in {instance.entry.index for instance in image.instances} or {-1}:
            by_label[label].append(image)
    rarity = {label: len(members) for label, members in by_label.items()}
    counts: Counter[int] = Counter()
    taken: set[str] = set()
    while by_label and len(taken) < number:
        # A few images without objects (-1) are enough.
        turns = {label: counts[label] if label >= 0 else 1 + 5 * counts[label] for label in by_label}
        label = min(by_label, key=lambda label: (turns[label], rarity[label], label))
        image = by_label[label].pop()
        if not by_label[label]:
            del by_label[label]
        if image.path not in taken:
            taken.add(image.path)
            counts.update({instance.entry.index for instance in image.instances} or {-1})
            yield image


def gallery(root: Path, dataset: CleanDataset) -> Gallery:
    """The images that `choose` returns, with their objects."""
    thumbnails, cards = Thumbnails(root), []
    for split, image in choose(dataset, _MOST):
        picture = annotated(thumbnails, image, _SIDE)
        if picture:
            is_truncated = len(image.instances) > len(picture.shapes)
            about = f"{split}, {plural(len(image.instances), 'object')}"
            about += f", the {len(picture.shapes)} largest drawn" if is_truncated else ""
            classes = dict.fromkeys(instance.entry.name for instance in image.instances)
            cards.append(Card(picture, [Name(image.path), about], {"split": [split], "class": [*classes]}))
    groups = [Group(entry.name, hue(entry.index)) for entry in sorted(dataset.classes, key=attrgetter("index"))]
    used = {shape.group for card in cards for shape in card.picture.shapes}
    return Gallery(
        cards, groups, {"split": "all splits", "class": "all classes"}, "class", names=len(used) > 1, anchor="grid"
    )


def pairs(root: Path, dataset: CleanDataset, findings: Findings) -> Pairs:
    """Pictures of some pairs of copies: first those in two splits, then the most alike pair of each image.

    Args:
        root: The dataset folder.
        dataset: The kept images by split, and the pairs of copies.
        findings: They show which images have the same bytes as another one.
    """
    import pandas as pd

    thumbnails = Thumbnails(root)
    splits: dict[str, list[str]] = defaultdict(list)
    for name in SPLITS:
        for image in dataset.splits[name]:
            splits[image.path].append(name)
    equal = {finding.place.image for finding in findings.all if finding.code in ("leakage", "image-doubled")}
    table = pd.DataFrame(dataset.pairs, columns=Pair._fields, dtype=object).sort_values(["distance", "path", "other"])
    table["within"] = [not set(splits[pair.path]).isdisjoint(splits[pair.other]) for pair in table.itertuples()]
    table["earlier"] = table.groupby("other").cumcount()
    chosen_pairs: list[PairOfCopies] = []
    for pair in table.sort_values(["within", "earlier"], kind="stable").head(_PAIRS).itertuples():
        places = {path: " and ".join(splits[path]) or "left out" for path in (pair.path, pair.other)}
        pictures = {path: thumbnails.image(path, _PAIR_SIDE) for path in places}
        cards = [Card(picture, [Name(path), places[path]]) for path, picture in pictures.items() if picture]
        if len(cards) == 2:
            about = "the same bytes" if pair.path in equal else f"alike: correlation {1 - pair.distance:.4f}"
            chosen_pairs.append(PairOfCopies(about, len({*places.values()}) > 1, Gallery(cards, columns="sides")))
    return Pairs(len(dataset.pairs), chosen_pairs)
