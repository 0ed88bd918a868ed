"""What can be wrong with one annotation, in the order it is looked for: each check may rely on those before it.

A check gives what is wrong, or None. Boxes and polygons are in pixels here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rfdetr_core.ingest.geometry import (
    Box,
    bounds,
    clip_box,
    clip_polygon,
    crosses_itself,
    numbers,
    overshoot,
    polygon_area,
)
from rfdetr_core.ingest.records import Annotation, shown
from rfdetr_core.ingest.run_lengths import mask_area, mask_bounds, mask_fault

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

    scope: `dataset`: nothing can be left out to mend it, so it always stops the run; `split`: the same, but only as an
    error, and another severity may be set; `unusable`: the named image,
    annotation or class is left out whenever the run goes on; `usable`: it is left out only where this is an error and
    on_error is drop. check: sees it in one annotation; the rest is seen where files are read and compared.
    mend: what makes of an annotation that is kept all the same one without the fault.
    """

    code: str
    severity: Severity
    scope: Scope
    advice: str
    check: Callable[[Annotation, Frame], str | None] | None = None
    mend: Callable[[Annotation], Annotation] | None = None


def clipped(one: Annotation, frame: Frame) -> Annotation:
    """The part of an annotation inside the image, as floats; where it is not the whole, its area is left open.

    That of run lengths is filled in.
    """
    box, segmentation = clip_box(numbers(one.box) or (), frame.width, frame.height), one.segmentation
    whole = box[2:] == tuple(one.box[2:]) or isinstance(segmentation, dict)
    if isinstance(segmentation, list):
        polygons = [numbers(polygon) or [] for polygon in segmentation]
        parts = [clip_polygon(polygon, frame.width, frame.height) for polygon in polygons]
        segmentation = [part for part in parts if polygon_area(part)]
        whole = whole and segmentation == polygons
    area = one.area if whole else None
    if area is None and isinstance(segmentation, dict):
        area = mask_area(segmentation)
    return replace(one, box=box, segmentation=segmentation or None, area=area)


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
    _, _, width, height = clip_box(one.box, frame.width, frame.height)
    # Of a box beyond the edge, rounding may have left a sliver inside.
    seen = width > min(EDGE, one.box[2] / 2) and height > min(EDGE, one.box[3] / 2)
    return None if seen else f"the box {_span(one.box)} is outside the {frame.width} x {frame.height} image"


def _beyond(one: Annotation, frame: Frame) -> str | None:
    larger = one.box[2] > _LARGER * frame.width or one.box[3] > _LARGER * frame.height
    return f"the box {_span(one.box)} is larger than the {frame.width} x {frame.height} image" if larger else None


def _segmentation(one: Annotation, frame: Frame) -> str | None:
    if isinstance(one.segmentation, dict):
        return mask_fault(one.segmentation, frame.height, frame.width)
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
    over = max(overshoot(box, frame.width, frame.height) for box in (one.box, *map(bounds, _polygons(one))))
    if over <= EDGE:
        return None
    what = f"the box {_span(one.box)}, or a polygon of it, goes {over:g} pixels over the edge of"
    return f"{what} the {frame.width} x {frame.height} image"


def _crossing(one: Annotation, frame: Frame) -> str | None:
    crossing = [number for number, polygon in enumerate(_polygons(one), start=1) if crosses_itself(polygon)]
    return f"polygon {crossing[0]} of {len(_polygons(one))} crosses itself" if crossing else None


def _enclosing(one: Annotation, frame: Frame) -> str | None:
    shapes = _shapes(one)
    right, bottom = one.box[0] + one.box[2], one.box[1] + one.box[3]
    over = [
        max(one.box[0] - x, one.box[1] - y, x + width - right, y + height - bottom) for x, y, width, height in shapes
    ]
    if not over or max(over) <= _LOOSE:
        return None
    return f"its mask reaches {max(over):g} pixels out of the box {_span(one.box)}"


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
    if isinstance(one.segmentation, dict):
        inside = mask_area(one.segmentation)
    else:
        inside = sum(map(polygon_area, _polygons(one)))
    # Tools write that of the box or of the mask; polygons that overlap count twice here.
    return None if area + 1 >= inside / 2 else f"the area is {shown(one.area)}, that of the mask {inside:g}"


def _polygons(one: Annotation) -> list[list[float]]:
    return one.segmentation if isinstance(one.segmentation, list) else []


def _shapes(one: Annotation) -> list[Box]:
    """The boxes around the parts of a mask."""
    return [mask_bounds(one.segmentation)] if isinstance(one.segmentation, dict) else [*map(bounds, _polygons(one))]


def _span(box: Sequence[float]) -> str:
    return f"from ({box[0]:g}, {box[1]:g}) to ({box[0] + box[2]:g}, {box[1] + box[3]:g})"


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
