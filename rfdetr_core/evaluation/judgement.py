"""Each image judged at one score threshold: what was found, what is wrong, what was missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as overlaps

from rfdetr_core.metrics.coco import ImageMatches

BACKGROUND = "background"
Row = dict[str, Any]  # an image, annotation or detection in COCO's format


@dataclass(frozen=True)
class ImageJudgement:
    """found: pairs of a detection and the annotation of its class that it matches at IoU 0.5. Crowds are left out."""

    image: Row
    found: list[tuple[Row, Row]]
    wrong: list[Row]
    missed: list[Row]

    @property
    def empty(self) -> bool:
        """Nothing is there and nothing was seen."""
        return not (self.found or self.wrong or self.missed)

    @property
    def f1(self) -> float:
        """2 found / (2 found + wrong + missed); 1 where nothing is there and nothing was seen."""
        found = len(self.found)
        return 1.0 if self.empty else 2 * found / (2 * found + len(self.wrong) + len(self.missed))


def judge(
    annotations: Row, results: list[Row], matches: Mapping[int, ImageMatches], threshold: float
) -> list[ImageJudgement]:
    """Judge every image by the detections with a score above the threshold, in the order of the annotations' images."""
    truth = {one["id"]: one for one in annotations["annotations"]}
    judgements = []
    for image in annotations["images"]:
        match = matches[image["id"]]
        pairs = sorted(match.pairs, key=lambda pair: -results[pair[0]]["score"])
        above = [pair for pair in pairs if results[pair[0]]["score"] > threshold]
        below = {number for _, number in pairs[len(above) :] if number is not None}
        judgements.append(
            ImageJudgement(
                image,
                found=[(results[place], truth[number]) for place, number in above if number is not None],
                wrong=[results[place] for place, number in above if number is None],
                missed=[truth[number] for number in sorted({*match.missed, *below})],
            )
        )
    return judgements


def confusions(judgements: list[ImageJudgement], names: Mapping[int, str]) -> list[tuple[str, str]]:
    """(actual, predicted) class of every object and every detection.

    A wrong detection is a confusion with the missed object of another class that its box overlaps most, if IoU is 0.5
    or more; the best score chooses first. What is left over is paired with the background.
    """
    rows = []
    for one in judgements:
        rows += [(names[truth["category_id"]], names[seen["category_id"]]) for seen, truth in one.found]
        missed = dict(enumerate(one.missed))
        for seen in one.wrong:
            near = {number: iou for number, iou in _overlaps(seen, missed).items() if iou >= 0.5}
            taken = missed.pop(max(near, key=lambda number: near[number])) if near else None
            rows.append((names[taken["category_id"]] if taken else BACKGROUND, names[seen["category_id"]]))
        rows += [(names[truth["category_id"]], BACKGROUND) for truth in missed.values()]
    return rows


def _overlaps(seen: Row, missed: Mapping[int, Row]) -> dict[int, float]:
    """IoU of a detection's box with those of the objects of other classes."""
    others = {number: one for number, one in missed.items() if one["category_id"] != seen["category_id"]}
    if not others:
        return {}
    ious = overlaps.iou(np.array([seen["bbox"]]), np.array([one["bbox"] for one in others.values()]), [0] * len(others))
    return dict(zip(others, ious[0].tolist(), strict=True))
