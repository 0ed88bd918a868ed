"""Every kind of finding in one table: its code, how grave it is, what becomes of what it names, what to do about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfdetr_core.ingest import geometry
from rfdetr_core.ingest.geometry import bounds, mask_area, numbers, polygon_area
from rfdetr_core.ingest.records import Annotation, shown

Severity = Literal["error", "warning", "ignore"]
Scope = Literal["dataset", "split", "unusable", "usable"]
# Half a pixel over the edge is how tools round; it is clipped without a word.
EDGE = 0.5
# How far a mask may reach out of its box: tools round both, each in its own way.
_LOOSE = 2.0
_TINY = 1.01
# Clipped to the image, a box in another unit would be the whole of it.
_LARGER = 1.5


@dataclass(frozen=True, slots=True)
class Frame:
    """What an annotation is checked against: the size of its image as decoded, and the class ids of its split."""

    width: int
    height: int
    categories: Container[int]


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    scope: what becomes of what the finding names. `dataset`: it always stops the run. `split`: it stops the run as an
    error. `unusable`: the image, annotation or class is left out. `usable`: it is kept as a warning, and left out as an
    error. With on_error stop, every error stops the run.
    check: finds it in one annotation; other findings are added where files are read and compared.
    mend: repairs an annotation that is kept despite the finding.
    """

    code: str
    severity: Severity
    scope: Scope
    advice: str
    check: Callable[[Annotation, Frame], str | None] | None = None
    mend: Callable[[Annotation], Annotation] | None = None


def clipped(one: Annotation, frame: Frame) -> Annotation:
    """The part of an annotation inside the image, as floats. If anything was cut off, its area is None."""
    box, segmentation = geometry.clip_box(numbers(one.box) or (), frame.width, frame.height), one.segmentation
    whole = box[2:] == tuple(one.box[2:]) or isinstance(segmentation, dict)
    if isinstance(segmentation, list):
        polygons = [numbers(polygon) or [] for polygon in segmentation]
        parts = [geometry.clip_polygon(polygon, frame.width, frame.height) for polygon in polygons]
        segmentation = [part for part in parts if polygon_area(part)]
        whole = whole and segmentation == polygons
    return replace(one, box=box, segmentation=segmentation or None, area=one.area if whole else None)


def _class(one: Annotation, frame: Frame) -> str | None:
    if type(one.category) is not int:
        return f"the class id is {shown(one.category)}, not an integer"
    return None if one.category in frame.categories else f"class id {one.category} is not in the class table"


def _crowd(one: Annotation, frame: Frame) -> str | None:
    return None if isinstance(one.crowd, int) and one.crowd in (0, 1) else f"iscrowd is {shown(one.crowd)}, not 0 or 1"


def _form(one: Annotation, frame: Frame) -> str | None:
    values = numbers(one.box)
    good = values is not None and (len(values) == 4 or not all(map(math.isfinite, values)))
    return None if good else f"the box is {shown(one.box)}, not four numbers"


def _finite(one: Annotation, frame: Frame) -> str | None:
    return None if all(map(math.isfinite, numbers(one.box) or ())) else f"the box is {shown(one.box)}"


def _extent(one: Annotation, frame: Frame) -> str | None:
    good = one.box[2] > 0 and one.box[3] > 0 and one.box[2] * one.box[3] > 0  # of 1e-200 by 1e-200 it is 0
    return None if good else f"the box is {one.box[2]:g} wide and {one.box[3]:g} high"


def _outside(one: Annotation, frame: Frame) -> str | None:
    _, _, width, height = geometry.clip_box(one.box, frame.width, frame.height)
    # Of a box beyond the edge, rounding may have left a sliver inside.
    seen = width > min(EDGE, one.box[2] / 2) and height > min(EDGE, one.box[3] / 2)
    return None if seen else f"the box {_span(one.box)} is outside the {frame.width} x {frame.height} image"


def _beyond(one: Annotation, frame: Frame) -> str | None:
    larger = one.box[2] > _LARGER * frame.width or one.box[3] > _LARGER * frame.height
    return f"the box {_span(one.box)} is larger than the {frame.width} x {frame.height} image" if larger else None


def _segmentation(one: Annotation, frame: Frame) -> str | None:
    if isinstance(one.segmentation, dict):
        return geometry.mask_fault(one.segmentation, frame.height, frame.width)
    if one.segmentation is not None and not isinstance(one.segmentation, list):
        return f"the segmentation is {shown(one.segmentation)}, neither polygons nor run lengths"
    if numbers(one.segmentation):
        return "the segmentation is one list of numbers, not a list of polygons: put [ and ] around it"
    for polygon in one.segmentation or []:
        values = numbers(polygon)
        if values is None or len(values) % 2 or not all(map(math.isfinite, values)):
            return f"a polygon is {shown(polygon)}, not a list of x, y, x, y, ..."
        if len(values) < 6 or not polygon_area(values):
            return f"a polygon of {len(values) // 2} points has no area: {shown(polygon)}"
    return None


def _edge(one: Annotation, frame: Frame) -> str | None:
    over = max(geometry.overshoot(box, frame.width, frame.height) for box in (one.box, *map(bounds, _polygons(one))))
    if over <= EDGE:
        return None
    what = f"the box {_span(one.box)}, or a polygon of it, goes {over:g} pixels over the edge of"
    return f"{what} the {frame.width} x {frame.height} image"


def _crossing(one: Annotation, frame: Frame) -> str | None:
    crossing = [number for number, polygon in enumerate(_polygons(one), start=1) if geometry.crosses_itself(polygon)]
    return f"polygon {crossing[0]} of {len(_polygons(one))} crosses itself" if crossing else None


def _enclosing(one: Annotation, frame: Frame) -> str | None:
    rle = isinstance(one.segmentation, dict)
    parts = [geometry.mask_bounds(one.segmentation)] if rle else map(bounds, _polygons(one))
    left, top, right, bottom = one.box[0], one.box[1], one.box[0] + one.box[2], one.box[1] + one.box[3]
    over = max((max(left - x, top - y, x + w - right, y + h - bottom) for x, y, w, h in parts), default=0.0)
    return f"its mask reaches {over:g} pixels out of the box {_span(one.box)}" if over > _LOOSE else None


def _tiny(one: Annotation, frame: Frame) -> str | None:
    small = min(one.box[2:]) <= _TINY and not one.crowd
    return f"the box is {one.box[2]:g} wide and {one.box[3]:g} high, in pixels" if small else None


def _whole(one: Annotation, frame: Frame) -> str | None:
    x, y, width, height = one.box
    gaps = (x, y, frame.width - x - width, frame.height - y - height)
    return "the box is the whole image" if max(gaps) <= EDGE and not one.crowd else None


def _area(one: Annotation, frame: Frame) -> str | None:
    limit = one.box[2] * one.box[3]
    if one.area is None or _edge(one, frame) is not None:
        return None
    (area,) = numbers([one.area]) or (math.nan,)
    if not 0 < area <= 1.01 * limit + 1:
        return f"the area is {shown(one.area)}, that of the box {limit:g}"
    inside = mask_area(one.segmentation)
    # Tools write that of the box or of the mask; polygons that overlap count twice here.
    return None if area + 1 >= inside / 2 else f"the area is {shown(one.area)}, that of the mask {inside:g}"


def _polygons(one: Annotation) -> list[list[float]]:
    return one.segmentation if isinstance(one.segmentation, list) else []


def _span(box: Sequence[float]) -> str:
    return f"from ({box[0]:g}, {box[1]:g}) to ({box[0] + box[2]:g}, {box[1] + box[3]:g})"


# In this order; the first finding that leaves an annotation out is its last. Boxes are in pixels, not clipped yet, and
# from the first `usable` row on their sides are positive.
ANNOTATION_RULES = (
    Rule("class-unknown", "error", "unusable", "Use an id of the class table.", _class),
    Rule("crowd-malformed", "error", "unusable", "Write 0, or 1 for a crowd.", _crowd),
    Rule("box-malformed", "error", "unusable", "Write [left, top, width, height].", _form),
    Rule("box-not-finite", "error", "unusable", "Write four finite numbers.", _finite),
    Rule("box-without-area", "error", "unusable", "Draw the box again or remove it.", _extent),
    Rule("box-outside", "error", "unusable", "Move or remove it; is it in the pixels of this image?", _outside),
    Rule("box-beyond-image", "error", "unusable", "Draw it again; is it in another unit?", _beyond),
    Rule("segmentation-malformed", "error", "usable", "Draw it again; as a warning, the box is kept without it.",
         _segmentation, lambda one: replace(one, segmentation=None)),
    Rule("partly-outside", "warning", "usable", "It is clipped; if many are, is it right and bottom?", _edge),
    Rule("polygon-crosses-itself", "warning", "usable", "Draw it again: what is its inside is unclear.", _crossing),
    Rule("box-unlike-mask", "warning", "usable", "Check which of the two is right: both are used.", _enclosing),
    Rule("box-tiny", "warning", "usable", "Check its unit, or remove it: no detector finds so little.", _tiny),
    Rule("box-whole-image", "warning", "usable", "Draw it around the object, unless that fills the image.", _whole),
    Rule("area-unlike-box", "warning", "usable", "It is computed from the polygons or the box.",
         _area, lambda one: replace(one, area=None)),
)  # fmt: skip

_OTHERS = (
    # Files of labels.
    Rule("labels-unreadable", "error", "dataset", "Write the file again as valid UTF-8."),
    Rule("labels-malformed", "error", "dataset", "Export the dataset again, or mend the file by hand."),
    Rule("labels-missing", "error", "dataset", "Add what is missing, or remove the folder or key that asks for it."),
    Rule("labels-outside", "error", "dataset", "Name files inside the dataset folder, and put them there."),
    Rule("base-ignored", "warning", "split", "Write path: . or remove the key: then every reader finds the images."),
    Rule("layout-ambiguous", "warning", "split", "Remove the files of the layout that is not meant."),
    Rule("label-unreadable", "error", "unusable", "Write the label file again as UTF-8 text, or remove it."),
    Rule("label-without-image", "warning", "split",
         "Add its image to a split, move it where the labels of its image are looked for, or remove it."),
    Rule("labels-not-read", "warning", "split",
         "Rename it as the layout has it, name it in validate.coco of params.yaml, or remove it."),
    Rule("key-doubled", "error", "dataset", "Keep one of the two: readers differ in which they take."),
    Rule("byte-order-mark", "warning", "split", "It is skipped here; other readers may fail: save without it."),
    Rule("id-not-integer", "warning", "split",
         'They are read as what they say; write 1, not "1" or 1.0: other readers find no annotations of them.'),
    # Classes.
    Rule("class-malformed", "error", "dataset", "Give every class an id from 0 up and a name, of its own each."),
    Rule("class-not-in-train", "error", "unusable", "Add the class to train, or remove it from this split."),
    Rule("class-ids-differ", "warning", "split", "Classes are matched by name; export the splits together."),
    Rule("class-untrained", "warning", "split", "It cannot be learnt: move images of it to train."),
    Rule("class-unused", "warning", "split", "Label objects of it, or remove it from the class table."),
    Rule("class-names-alike", "warning", "split", "If they are one class, give them one name and id."),
    # Splits.
    Rule("split-missing", "error", "dataset",
         "Training needs train and valid: add it, or cut it from train: validate.split."),
    Rule("split-empty", "error", "dataset", "Add images with objects to the split."),
    Rule("test-empty", "warning", "split", "Add images with objects, or remove the split: valid is evaluated then."),
    Rule("test-missing", "warning", "split", "Add it, or remove the key: valid is evaluated then."),
    Rule("test-without-labels", "warning", "split", "Remove it, or add annotations/instances_test*.json."),
    Rule("leakage", "warning", "usable", "Remove it from one of the splits: scores would flatter."),
    Rule("near-leakage", "warning", "usable", "Compare the two; copies in two splits flatter the scores."),
    Rule("origin-leakage", "warning", "usable", "Keep the copies of one picture in one split: scores would flatter."),
    Rule("names-in-two-splits", "warning", "usable", "Compare them; copies in two splits flatter the scores."),
    Rule("masks-incomplete", "warning", "split", "Draw the missing masks, if a segmenter is to be trained."),
    Rule("boxes-in-other-unit", "error", "split", "COCO wants pixels, YOLO parts of the image: export again."),
    Rule("boxes-as-corners", "error", "split", "COCO wants left, top, width, height: export again."),
    # Images.
    Rule("image-malformed", "error", "unusable", "Write an entry with an id from 0 up and a file_name."),
    Rule("image-id-doubled", "error", "unusable", "Give every image an id of its own."),
    Rule("image-listed-twice", "error", "unusable", "Merge the entries into one."),
    Rule("image-doubled", "warning", "usable", "Remove one of the two."),
    Rule("near-doubled", "warning", "usable", "Compare the two, and remove one if nothing is new in it."),
    Rule("image-not-listed", "warning", "split", "It is not used; list it (without objects it is a negative)."),
    Rule("image-not-read", "warning", "split", "Save it as JPEG, PNG, BMP, WebP or TIFF, or remove it."),
    Rule("image-without-labels", "warning", "split",
         "Put its label file into labels/ in place of the last images/ of its path, or beside the image if there is no "
         "images/; an empty file says that nothing is in it."),
    Rule("image-missing", "error", "unusable", "Add the file or remove the entry."),
    Rule("image-unreadable", "error", "unusable", "Replace the file, or remove it with its entry."),
    Rule("image-too-large", "error", "unusable", "Make it smaller, or raise validate.max_pixels in params.yaml."),
    Rule("image-of-other-kind", "warning", "usable",
         "It is read by its content; rename it, other tools go by the name."),
    Rule("image-with-frames", "warning", "usable", "The first one is used; save the others as images of their own."),
    Rule("range-unused", "warning", "split", "Scale the values to the whole of 16 bits, or they stay nearly black."),
    Rule("transparency-unlikely", "warning", "split",
         "Save red, green and blue alone: transparency is laid over white."),
    Rule("image-size-differs", "error", "usable", "Check that its boxes fit, then correct the size."),
    Rule("image-size-zero", "warning", "split", "The size is that of the picture; other readers need it here."),
    Rule("path-outside", "error", "unusable", "Name a file inside the dataset folder, and put it there."),
    Rule("path-malformed", "error", "unusable", "Name it with / between folders and without control characters."),
    Rule("name-not-portable", "warning", "usable", "Rename it: other systems or people read this name as another."),
    Rule("names-alike", "warning", "usable", "Rename one: on other systems they are one file."),
    Rule("name-differs", "error", "unusable", "Write the name as the file has it."),
    Rule("file-ignored", "warning", "split", "Remove it, or make it an ordinary file of the dataset."),
    Rule("label-shared", "error", "unusable", "Give each image a label file: rename one of them."),
    # Metadata of images. What is left out is no image: the file, a column, a row or a value.
    Rule("metadata-unreadable", "error", "unusable",
         "Write metadata.csv as UTF-8 with commas, its header first, with one column file_name."),
    Rule("metadata-column", "error", "unusable", "Give every column a name of its own, not path; or remove it."),
    Rule("metadata-row", "error", "unusable",
         "Give every row the image in file_name, and as many cells as the header; quote a cell that has a comma."),
    Rule("metadata-doubled", "error", "unusable", "Keep one of the rows: neither is used, since either may be right."),
    Rule("metadata-ambiguous", "error", "unusable", "Write the path of the image below the dataset folder."),
    Rule("metadata-without-image", "warning", "unusable",
         "Write the path of an image below the dataset folder, or a base name that only it has; or remove the row."),
    Rule("metadata-value", "warning", "unusable", "Shorten it to one line, or keep it elsewhere."),
    Rule("metadata-licence-unknown", "warning", "unusable", "Add it to licenses, or give licence in metadata.csv."),
    # Annotations.
    Rule("many-objects", "warning", "usable", "A model finds at most as many as it has queries: cut the image up."),
    Rule("box-doubled", "warning", "usable", "Keep the right one of them."),
    Rule("keypoints-ignored", "warning", "split", "Boxes are used, keypoints are not."),
    Rule("ignored-as-crowd", "warning", "split",
         "They are left out of training and score nothing, as crowds; remove ignore to use them."),
    Rule("annotation-malformed", "error", "unusable", "Write it as the format wants it."),
    Rule("annotation-id-doubled", "error", "unusable", "Give every annotation an id of its own."),
    Rule("annotation-without-image", "error", "unusable", "Use the id of an image, or remove the annotation."),
    Rule("annotation-doubled", "warning", "usable", "Remove one of the two."),
)  # fmt: skip
RULES = {rule.code: rule for rule in (*_OTHERS, *ANNOTATION_RULES)}

_EFFECTS = {
    "dataset": "always stops",
    "split": "as an error always stops",
    "unusable": "always left out",
    "usable": "as an error left out, else used",
}


def markdown() -> str:
    """docs/findings.md: `python -m rfdetr_core.ingest.rules > docs/findings.md`."""
    head = """# What validation finds

Written by `python -m rfdetr_core.ingest.rules > docs/findings.md`. `validate.severities` in params.yaml gives a code
another severity: `error`, `warning` or `ignore`; not to those that always stop. An error stops the run; with
`validate.on_error: drop` what it names is left out instead, where something can be.

| code | severity | with `drop` | what to do |
|---|---|---|---|
"""
    rows = (f"| {rule.code} | {rule.severity} | {_EFFECTS[rule.scope]} | {rule.advice} |\n" for rule in RULES.values())
    return head + "".join(rows)


if __name__ == "__main__":
    print(markdown(), end="")
