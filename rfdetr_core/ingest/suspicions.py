"""What only the annotations of a whole split tell: that all are in another unit, or that masks are lacking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rfdetr_core.ingest.canonical import CanonicalImage
from rfdetr_core.ingest.checks import EDGE
from rfdetr_core.ingest.examine import FileFacts
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.geometry import Box, drawable
from rfdetr_core.ingest.records import Dataset, Place, Split

# Most variants have 300 queries.
MOST_OBJECTS = 300


def check_units(dataset: Dataset, facts: Mapping[str, FileFacts], findings: Findings) -> bool:
    """Find splits whose boxes are in another unit, or are corners, as a whole; True: no other check makes sense."""
    wrong = False
    for name, split in dataset.items():
        count = fractions = pixels = corners = beyond = 0
        for box, relative, width, height in _boxes(split, facts):
            x, y, right, bottom = box
            count += 1
            pixels += relative and max(right, bottom) > 1.5
            fractions += not relative and min(box) >= 0 and max(box) <= 1 < max(width, height)
            corners += x < right <= width + EDGE and y < bottom <= height + EDGE
            beyond += not relative and (x + right > width + EDGE or y + bottom > height + EDGE)
        if count and fractions == count:
            what = f"all {count} boxes of {name} lie within 0 .. 1: parts of the image, not pixels"
            wrong |= findings.add("boxes-in-other-unit", split.place, what)
        elif pixels > 1 and 2 * pixels > count:
            what = f"{pixels} of {count} objects of {name} are larger than the image: pixels, not parts of it"
            wrong |= findings.add("boxes-in-other-unit", split.place, what)
        elif count > 2 and 2 * beyond >= count and 20 * corners >= 19 * count:
            what = (
                f"{beyond} of {count} boxes of {name} go over the right or bottom edge, but fit into their images as "
                "left, top, right, bottom"
            )
            wrong |= findings.add("boxes-as-corners", split.place, what)
    return wrong


def _boxes(split: Split, facts: Mapping[str, FileFacts]) -> Iterator[tuple[Box, bool, int, int]]:
    """Every box of numbers, as the files have it, whether it is relative, and the size of its image."""
    for record in split.images:
        fact = facts.get(record.path)
        for one in record.annotations if fact and not fact.code else ():
            box = drawable(one.box)
            if fact and box:
                yield box, one.relative, fact.width, fact.height


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
