"""The table of all findings: code, severity, effect on the named image or object, and advice.

`meanings.py` writes docs/findings.md: this table with a sentence that explains each code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfdetr_core.ingest import geometry
from rfdetr_core.ingest.geometry import bounds, mask_area, numbers, polygon_area
from rfdetr_core.ingest.records import Annotation, short_repr

Severity = Literal["error", "warning", "ignore"]
Scope = Literal["dataset", "split", "unusable", "usable"]
# Tools round by up to half a pixel. A box that goes over the edge by this or less is clipped without a finding.
EDGE = 0.5
# Pixels that a mask may reach out of its box: tools round masks and boxes in different ways.
_LOOSE = 2.0
_TINY = 1.01
# A box this many times larger than the image has another unit. Clipped, it would be the whole image.
_LARGER = 1.5


@dataclass(frozen=True, slots=True)
class Frame:
    """What an annotation is checked against: the size of the decoded image, and the class ids of the split."""

    width: int
    height: int
    categories: Container[int]


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    Attributes:
        code: its name in findings.csv and in `validate.severities`.
        severity: the default severity.
        scope: the effect. `dataset`: always stops the run. `split`: stops the run if it is an error. `unusable`: the
            image, annotation or class is always left out. `usable`: left out as an error, kept as a warning.
            With on_error: stop, every error stops the run.
        advice: what to do.
        check: finds it in one annotation and returns the message. None: it is added where files are read and compared.
        repair: changes an annotation that is kept despite the finding.
    """

    code: str
    severity: Severity
    scope: Scope
    advice: str
    check: Callable[[Annotation, Frame], str | None] | None = None
    repair: Callable[[Annotation], Annotation] | None = None


def clipped(annotation: Annotation, frame: Frame) -> Annotation:
    """The part of an annotation inside the image, as floats. The area becomes None if anything was cut off."""
    box, segmentation = (
        geometry.clip_box(numbers(annotation.box) or (), frame.width, frame.height),
        annotation.segmentation,
    )
    uncut = box[2:] == tuple(annotation.box[2:]) or isinstance(segmentation, dict)
    if isinstance(segmentation, list):
        polygons = [numbers(polygon) or [] for polygon in segmentation]
        parts = [geometry.clip_polygon(polygon, frame.width, frame.height) for polygon in polygons]
        segmentation = [part for part in parts if polygon_area(part)]
        uncut = uncut and segmentation == polygons
    return replace(annotation, box=box, segmentation=segmentation or None, area=annotation.area if uncut else None)


def _unknown_class(annotation: Annotation, frame: Frame) -> str | None:
    if type(annotation.category) is not int:
        return f"the class id is {short_repr(annotation.category)}, not an integer"
    return (
        None if annotation.category in frame.categories else f"class id {annotation.category} is not in the class table"
    )


def _malformed_crowd(annotation: Annotation, frame: Frame) -> str | None:
    return (
        None
        if isinstance(annotation.crowd, int) and annotation.crowd in (0, 1)
        else f"iscrowd is {short_repr(annotation.crowd)}, not 0 or 1"
    )


def _malformed_box(annotation: Annotation, frame: Frame) -> str | None:
    values = numbers(annotation.box)
    good = values is not None and (len(values) == 4 or not all(map(math.isfinite, values)))
    return None if good else f"the box is {short_repr(annotation.box)}, not four numbers"


def _infinite_box(annotation: Annotation, frame: Frame) -> str | None:
    return (
        None
        if all(map(math.isfinite, numbers(annotation.box) or ()))
        else f"the box {short_repr(annotation.box)} has a number that is not finite"
    )


def _box_without_area(annotation: Annotation, frame: Frame) -> str | None:
    good = (
        annotation.box[2] > 0 and annotation.box[3] > 0 and annotation.box[2] * annotation.box[3] > 0
    )  # the area of 1e-200 by 1e-200 is 0
    return None if good else f"the box is {annotation.box[2]:g} wide and {annotation.box[3]:g} high"


def _box_outside(annotation: Annotation, frame: Frame) -> str | None:
    _, _, width, height = geometry.clip_box(annotation.box, frame.width, frame.height)
    # Rounding may leave a sliver of an outside box inside the image.
    is_visible = width > min(EDGE, annotation.box[2] / 2) and height > min(EDGE, annotation.box[3] / 2)
    return (
        None if is_visible else f"the box {_span(annotation.box)} is outside the {frame.width} x {frame.height} image"
    )


def _box_beyond_image(annotation: Annotation, frame: Frame) -> str | None:
    larger = annotation.box[2] > _LARGER * frame.width or annotation.box[3] > _LARGER * frame.height
    return (
        f"the box {_span(annotation.box)} is larger than the {frame.width} x {frame.height} image" if larger else None
    )


def _malformed_segmentation(annotation: Annotation, frame: Frame) -> str | None:
    if isinstance(annotation.segmentation, dict):
        return geometry.mask_problem(annotation.segmentation, frame.height, frame.width)
    if annotation.segmentation is not None and not isinstance(annotation.segmentation, list):
        return f"the segmentation is {short_repr(annotation.segmentation)}, neither polygons nor run lengths"
    if numbers(annotation.segmentation):
        return "the segmentation is one list of numbers, not a list of polygons: put [ and ] around it"
    for polygon in annotation.segmentation or []:
        values = numbers(polygon)
        if values is None or len(values) % 2 or not all(map(math.isfinite, values)):
            return f"a polygon is {short_repr(polygon)}, not a list of x, y, x, y, ..."
        if len(values) < 6 or not polygon_area(values):
            return f"a polygon of {len(values) // 2} points has no area: {short_repr(polygon)}"
    return None


def _box_over_edge(annotation: Annotation, frame: Frame) -> str | None:
    over = max(
        geometry.overshoot(box, frame.width, frame.height)
        for box in (annotation.box, *map(bounds, _polygons(annotation)))
    )
    if over <= EDGE:
        return None
    message = f"the box {_span(annotation.box)}, or a polygon of its mask, goes {over:g} pixels over the edge of"
    return f"{message} the {frame.width} x {frame.height} image"


def _crossing_polygon(annotation: Annotation, frame: Frame) -> str | None:
    crossing = [
        number for number, polygon in enumerate(_polygons(annotation), start=1) if geometry.crosses_itself(polygon)
    ]
    return f"polygon {crossing[0]} of {len(_polygons(annotation))} crosses itself" if crossing else None


def _mask_beyond_box(annotation: Annotation, frame: Frame) -> str | None:
    rle = isinstance(annotation.segmentation, dict)
    parts = [geometry.mask_bounds(annotation.segmentation)] if rle else map(bounds, _polygons(annotation))
    left, top, right, bottom = (
        annotation.box[0],
        annotation.box[1],
        annotation.box[0] + annotation.box[2],
        annotation.box[1] + annotation.box[3],
    )
    over = max((max(left - x, top - y, x + w - right, y + h - bottom) for x, y, w, h in parts), default=0.0)
    return f"the mask reaches {over:g} pixels out of the box {_span(annotation.box)}" if over > _LOOSE else None


def _tiny_box(annotation: Annotation, frame: Frame) -> str | None:
    small = min(annotation.box[2:]) <= _TINY and not annotation.crowd
    return f"the box is {annotation.box[2]:g} wide and {annotation.box[3]:g} high, in pixels" if small else None


def _box_of_whole_image(annotation: Annotation, frame: Frame) -> str | None:
    x, y, width, height = annotation.box
    gaps = (x, y, frame.width - x - width, frame.height - y - height)
    return "the box is the whole image" if max(gaps) <= EDGE and not annotation.crowd else None


def _area_unlike_box(annotation: Annotation, frame: Frame) -> str | None:
    limit = annotation.box[2] * annotation.box[3]
    if annotation.area is None or _box_over_edge(annotation, frame) is not None:
        return None
    (area,) = numbers([annotation.area]) or (math.nan,)
    if not 0 < area <= 1.01 * limit + 1:
        return f"the key area is {short_repr(annotation.area)}, but the box has the area {limit:g}"
    inside = mask_area(annotation.segmentation)
    # Tools write the area of the box or of the mask. Overlapping polygons count twice here.
    return (
        None
        if area + 1 >= inside / 2
        else f"the key area is {short_repr(annotation.area)}, but the mask has the area {inside:g}"
    )


def _polygons(annotation: Annotation) -> list[list[float]]:
    return annotation.segmentation if isinstance(annotation.segmentation, list) else []


def _span(box: Sequence[float]) -> str:
    return f"from ({box[0]:g}, {box[1]:g}) to ({box[0] + box[2]:g}, {box[1] + box[3]:g})"


# The order counts: after a finding that leaves an annotation out, no later check runs. Boxes are in pixels and not
# clipped yet. From the first `usable` row on, their sides are positive.
ANNOTATION_RULES = (
    Rule("class-unknown", "error", "unusable", "Use a class id of the class table.", _unknown_class),
    Rule("crowd-malformed", "error", "unusable", "Set iscrowd to 0, or to 1 for a crowd.", _malformed_crowd),
    Rule("box-malformed", "error", "unusable", "Write the box as [left, top, width, height].", _malformed_box),
    Rule("box-not-finite", "error", "unusable", "Write the box as four finite numbers.", _infinite_box),
    Rule("box-without-area", "error", "unusable", "Draw the box again, or remove it.", _box_without_area),
    Rule("box-outside", "error", "unusable",
         "Move the box, or remove it. Do its coordinates belong to this image?", _box_outside),
    Rule("box-beyond-image", "error", "unusable", "Draw the box again. Is it in another unit?", _box_beyond_image),
    Rule("segmentation-malformed", "error", "usable",
         "Draw the mask again. With severity warning, the box is used without the mask.",
         _malformed_segmentation, lambda annotation: replace(annotation, segmentation=None)),
    Rule("partly-outside", "warning", "usable",
         "The box is clipped to the image. If many boxes are clipped: do they have the form left, top, right, bottom?",
         _box_over_edge),
    Rule("polygon-crosses-itself", "warning", "usable",
         "Draw the polygon again: its inside is ambiguous.", _crossing_polygon),
    Rule("box-unlike-mask", "warning", "usable",
         "Check whether the box or the mask is right: both are used.", _mask_beyond_box),
    Rule("box-tiny", "warning", "usable",
         "Check the unit of the box, or remove the box: it is too small for a detector.", _tiny_box),
    Rule("box-whole-image", "warning", "usable",
         "Draw the box around the object, unless the object fills the image.", _box_of_whole_image),
    Rule("area-unlike-box", "warning", "usable",
         "Correct the key area. It is ignored: the area of the mask or box is used instead.",
         _area_unlike_box, lambda annotation: replace(annotation, area=None)),
)  # fmt: skip

_OTHERS = (
    # Files of labels.
    Rule("labels-unreadable", "error", "dataset", "Write the file again as valid UTF-8."),
    Rule("labels-malformed", "error", "dataset", "Export the dataset again, or correct the file by hand."),
    Rule("labels-missing", "error", "dataset",
         "Add the missing file or folder, or remove the folder or key that refers to it."),
    Rule("labels-outside", "error", "dataset", "Put the files into the dataset folder, and correct the names."),
    Rule("base-ignored", "warning", "split",
         "In data.yaml, write `path: .` or remove the key path. Then every reader finds the images."),
    Rule("layout-ambiguous", "warning", "split", "Remove the files of the layout that you do not use."),
    Rule("label-unreadable", "error", "unusable", "Write the label file again as UTF-8 text, or remove it."),
    Rule("label-without-image", "warning", "split",
         "Add the image of this label file to a split, move the label file to the path that its image requires, "
         "or remove the label file."),
    Rule("labels-not-read", "warning", "split",
         "Give the file the name that its layout requires, name it in validate.coco of params.yaml, or remove it."),
    Rule("key-doubled", "error", "dataset", "Keep one of the two keys: readers differ in which one they use."),
    Rule("byte-order-mark", "warning", "split",
         "Save the file without a byte order mark. The mark is skipped here, but other readers may fail."),
    Rule("id-not-integer", "warning", "split",
         'Write ids as integers: 1, not "1" or 1.0. They are converted here, but other readers may lose annotations.'),
    # Classes.
    Rule("class-malformed", "error", "dataset", "Give every class a unique id, 0 or larger, and a unique name."),
    Rule("class-not-in-train", "error", "unusable", "Add the class to train, or remove it from this split."),
    Rule("class-ids-differ", "warning", "split", "Export the splits together. Here classes are matched by name."),
    Rule("class-untrained", "warning", "split", "Move images with this class to train: no image of train shows it."),
    Rule("class-unused", "warning", "split", "Label objects of this class, or remove it from the class table."),
    Rule("class-names-alike", "warning", "split", "If these are one class, give them one name and id."),
    # Splits.
    Rule("split-missing", "error", "dataset",
         "Add the split, or cut it from train with validate.split: training needs train and valid."),
    Rule("split-empty", "error", "dataset", "Add images with objects to the split."),
    Rule("test-empty", "warning", "split",
         "Add images with objects, or remove the split. Without test, valid is evaluated."),
    Rule("test-missing", "warning", "split",
         "Add the files, or remove the key test. Without test, valid is evaluated."),
    Rule("test-without-labels", "warning", "split", "Remove the file, or add annotations/instances_test*.json."),
    Rule("leakage", "warning", "usable", "Remove the copy from one of the splits: otherwise the scores are too high."),
    Rule("near-leakage", "warning", "usable",
         "Compare the two images. If they are copies, remove one: otherwise the scores are too high."),
    Rule("origin-leakage", "warning", "usable",
         "Keep all copies of a picture in one split: otherwise the scores are too high."),
    Rule("names-in-two-splits", "warning", "usable",
         "Compare the images. If they are copies, keep them in one split: otherwise the scores are too high."),
    Rule("masks-incomplete", "warning", "split", "Draw the missing masks if you train a segmentation model."),
    Rule("boxes-in-other-unit", "error", "split",
         "Export the dataset again: COCO needs pixels, and YOLO needs fractions of the image."),
    Rule("boxes-as-corners", "error", "split", "Export the dataset again: COCO needs left, top, width, height."),
    # Images.
    Rule("image-malformed", "error", "unusable", "Give the entry an id, 0 or larger, and a file_name."),
    Rule("image-id-doubled", "error", "unusable", "Give every image a unique id."),
    Rule("image-listed-twice", "error", "unusable", "Merge the entries of this image into one."),
    Rule("image-doubled", "warning", "usable", "Remove one of the two copies."),
    Rule("near-doubled", "warning", "usable", "Compare the two images, and remove one if it adds nothing."),
    Rule("image-not-listed", "warning", "split",
         "Add the image to a split. An image without objects is a negative example."),
    Rule("image-not-read", "warning", "split", "Save the image as JPEG, PNG, BMP, WebP or TIFF, or remove it."),
    Rule("image-without-labels", "warning", "split",
         "Add the label file: for images/train/1.jpg it is labels/train/1.txt. If the path has no folder images, the "
         "label file is beside the image. An empty file means: no objects."),
    Rule("image-missing", "error", "unusable", "Add the file, or remove its entry."),
    Rule("image-unreadable", "error", "unusable", "Replace the file, or remove it and its entry."),
    Rule("image-too-large", "error", "unusable",
         "Make the image smaller, or raise validate.max_pixels in params.yaml."),
    Rule("image-of-other-kind", "warning", "usable",
         "Rename the file: other tools choose the decoder by the name. Here the content decides."),
    Rule("image-with-frames", "warning", "usable",
         "Save the other frames as separate images. Only the first frame is used."),
    Rule("range-unused", "warning", "split",
         "Scale the values to the full 16 bits: otherwise the images are nearly black."),
    Rule("transparency-unlikely", "warning", "split",
         "Save only red, green and blue: transparency is replaced by white."),
    Rule("image-size-differs", "error", "usable",
         "Check that the boxes fit the image, then correct the size in the label file."),
    Rule("image-size-zero", "warning", "split",
         "Write the size of the image into the label file: other readers need it."),
    Rule("path-outside", "error", "unusable", "Put the file into the dataset folder, and correct its name."),
    Rule("path-malformed", "error", "unusable", "Name the file with / between folders and without control characters."),
    Rule("name-not-portable", "warning", "usable",
         "Rename the file: other systems or people read this name differently."),
    Rule("names-alike", "warning", "usable", "Rename one of the files: on some systems they are the same file."),
    Rule("name-differs", "error", "unusable",
         "Rename the file, or correct its name in the labels. Upper and lower case count."),
    Rule("file-ignored", "warning", "split", "Remove the file or folder, or make it an ordinary part of the dataset."),
    Rule("label-shared", "error", "unusable", "Rename one of the images, so that each has its own label file."),
    # Metadata of images. These leave out the file, a column, a row or a value, but never an image.
    Rule("metadata-unreadable", "error", "unusable",
         "Write metadata.csv as UTF-8, with commas between the cells. The first line is the header, with one column "
         "file_name."),
    Rule("metadata-column", "error", "unusable",
         "Give every column a unique name, or remove the column. The name path is reserved."),
    Rule("metadata-row", "error", "unusable",
         "Give every row an image in file_name, and as many cells as the header. Quote cells that contain a comma."),
    Rule("metadata-doubled", "error", "unusable",
         "Keep only the row that is right. Until then, all rows of the image are ignored."),
    Rule("metadata-ambiguous", "error", "unusable", "Write the path of the image below the dataset folder."),
    Rule("metadata-without-image", "warning", "unusable",
         "Write the path of an image below the dataset folder, or a file name that only this image has. "
         "Or remove the row."),
    Rule("metadata-value", "warning", "unusable", "Shorten the value to one line, or keep it in another file."),
    Rule("metadata-licence-unknown", "warning", "unusable",
         "Add the licence to licenses, or write it into the column licence of metadata.csv."),
    # Annotations.
    Rule("many-objects", "warning", "usable",
         "Cut the image into parts: a model detects at most as many objects as it has queries."),
    Rule("box-doubled", "warning", "usable", "Keep only the object that is right."),
    Rule("keypoints-ignored", "warning", "split", "Do nothing if you train boxes. Keypoints are not used."),
    Rule("ignored-as-crowd", "warning", "split",
         "Remove the key ignore to use these objects. They count as crowds now: neither trained on nor scored."),
    Rule("annotation-malformed", "error", "unusable", "Write the annotation as the format requires."),
    Rule("annotation-id-doubled", "error", "unusable", "Give every annotation a unique id."),
    Rule("annotation-without-image", "error", "unusable", "Use the id of an image, or remove the annotation."),
    Rule("annotation-doubled", "warning", "usable", "Remove one of the two annotations."),
)  # fmt: skip
RULES = {rule.code: rule for rule in (*_OTHERS, *ANNOTATION_RULES)}
