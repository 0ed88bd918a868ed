"""Detections and objects of a split as tables: what each detection is, and which detection found each object.

hotcoco matches, as pycocotools does and bit for bit like it, in a hundredth of the time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import numpy.typing as npt
import pandas as pd
from hotcoco import mask as overlaps

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.metrics import matching
from rfdetr_core.metrics.coco import THRESHOLDS, Floats, Kind, Row

POSITIVE, BACKGROUND = 0.5, 0.1  # IoU of TIDE: from the one on a detection is right, up to the other it sees nothing
RIGHT = "right"
MISSED = "missed"
# By name, what TIDE calls it, in the order in which its causes are tested (Bolya et al., ECCV 2020, section 2.2).
ERRORS = {
    "localisation": "Loc",
    "classification": "Cls",
    "duplicate": "Dupe",
    "background": "Bkg",
    "both": "Both",
    MISSED: "Miss",
}
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
_BOX = ["x", "y", "width", "height"]


@dataclass(frozen=True)
class Results:
    """N detections of a split as columns: image_id (N,), label (N,), box (N, 4) left, top, width, height, score (N,);
    segmentation: N masks as RLE, or None."""

    image_id: Ints
    label: Ints
    box: Floats
    score: Floats
    segmentation: list[Any] | None = None

    @classmethod
    def of(cls, rows: Iterable[Row], masks: Iterable[Row] | None = None) -> Results:
        """From COCO's results format; masks: the same detections in the same order with a segmentation."""
        columns = [(row["image_id"], row["category_id"], row["score"], *row["bbox"]) for row in rows]
        table = np.array(columns, dtype=np.float64).reshape(-1, 7)
        ids, labels = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        coded = None if masks is None else [row["segmentation"] for row in masks]
        return cls(ids, labels, table[:, 3:], table[:, 2], coded)

    @classmethod
    def read(cls, boxes: Path, masks: Path | None = None) -> Results:
        """From the files of an evaluation, which hold one detection a line.

        Raises:
            UserError: a file is missing or not one of an evaluation, or the two differ in length.
        """
        try:
            results = cls.of(_rows(boxes), None if masks is None else _rows(masks))
        except (KeyError, TypeError) as error:
            where = " or ".join(str(path) for path in (boxes, masks) if path)
            raise UserError(f"{where} has no detections ({error!r}). Write it again: dvc repro -f evaluate") from error
        if results.segmentation is not None and len(results.segmentation) != len(results.score):
            raise UserError(f"{masks} has not as many detections as {boxes}. Write both again: dvc repro -f evaluate")
        return results


@dataclass(frozen=True)
class Analysis:
    """Detections matched with the objects of a split, of boxes or of masks.

    images: image_id, path, width, height; sorted by image_id.
    objects: all annotations but crowds: annotation (its id), image (a row of images), label, x, y, width, height, area,
        found (score of the detection that matches it at IoU 0.5; NaN: none), crowding (largest IoU with another).
    detections: all that count, which leaves out those beyond the best 100 of an image and class, and those that match
        a crowd: row (its place in the results), image, label, score, x, y, width, height, area, object (the row of the
        object it matches, or -1), kind (RIGHT, or one of ERRORS), near (row of the object that the kind is about, or
        the one that it overlaps most; -1: none), overlap (IoU with near).
    rivals: pairs of a detection and an object of another class with an IoU of 0.5 or more (rows of both, overlap).
    classes: names by label.
    """

    kind: Kind
    images: pd.DataFrame
    objects: pd.DataFrame
    detections: pd.DataFrame
    rivals: pd.DataFrame
    classes: dict[int, str]
    evaluator: hotcoco.COCOeval

    @classmethod
    def of(cls, annotations: Row, results: Results, kind: Kind = "bbox") -> Analysis:
        """Match the results with canonical annotations."""
        classes = {row["id"]: row["name"] for row in sorted(annotations["categories"], key=lambda row: int(row["id"]))}
        columns = [(row["id"], row["file_name"], row["width"], row["height"]) for row in annotations["images"]]
        images = pd.DataFrame(columns, columns=["image_id", "path", "width", "height"])
        images = images.sort_values("image_id", ignore_index=True)
        truth, predictions = load(annotations, results, kind)
        evaluator = matching.evaluate(truth, predictions, kind)
        matches = evaluator.image_diagnostics(iou_thr=POSITIVE, score_thr=0.5)
        objects = _objects(annotations, images)
        counted = np.array(sorted(matches["dt_status"]), dtype=np.int64) - 1  # their ids count from 1
        detections = pd.DataFrame(results.box[counted], columns=_BOX)
        detections.insert(0, "row", counted)
        detections.insert(1, "image", np.searchsorted(images.image_id.to_numpy(), results.image_id[counted]))
        detections.insert(2, "label", results.label[counted])
        detections.insert(3, "score", results.score[counted])
        place = {annotation: row for row, annotation in enumerate(objects.annotation.tolist())}
        pairs = {number - 1: place[annotation] for number, annotation in matches["dt_match"].items()}
        detections["object"] = np.array([pairs.get(row, -1) for row in counted.tolist()], dtype=np.int64)
        ids = (counted + 1).tolist()
        detections["area"] = (
            np.array([row["area"] for row in predictions.load_anns(ids)], dtype=np.float64) if ids else []
        )
        right = detections.object.to_numpy() >= 0
        objects["matched_score"] = np.nan
        objects.loc[detections.object[right], "matched_score"] = detections.score[right].to_numpy()
        shapes = _Shapes.of(truth, objects, detections, results, kind)
        kinds, near, overlap, rivals = _kinds(images, objects, detections, shapes)
        detections["kind"], detections["near"], detections["overlap"] = kinds, near, overlap
        objects["crowding"] = _crowding(images, objects, shapes)
        return cls(kind, images, objects, detections, rivals, classes, evaluator)

    @cached_property
    def curves(self) -> Floats:
        """Precision, recall and F1 of each class at IoU 0.5 and each of THRESHOLDS: (K, 3, 101); NaN: no instance."""
        detections = self.detections
        curves = np.full((len(self.classes), 3, len(THRESHOLDS)), np.nan)
        instances = self.objects.groupby("label").size()
        of_class = dict(iter(detections.groupby("label")))
        for row, label in enumerate(self.classes):
            if not (count := int(instances.get(label, 0))):
                continue
            mine = of_class.get(label, detections.iloc[:0])
            scores, right = mine.score.to_numpy(), mine.object.to_numpy() >= 0
            seen, hits = (_reaching(values) for values in (scores, scores[right]))
            curves[row] = hits / np.maximum(seen, 1), hits / count, 2 * hits / (seen + count)
        return curves

    @cached_property
    def mean_curve(self) -> Floats:
        """The mean of `curves` over the classes with instances, (3, 101); NaN where there is none."""
        present = ~np.isnan(self.curves[:, 0, 0])
        return self.curves[present].mean(axis=0) if present.any() else np.full((3, len(THRESHOLDS)), np.nan)

    def missed(self, threshold: Floats) -> pd.DataFrame:
        """Objects that nothing above the threshold of its class finds, nor nearly: TIDE's missed.

        An object beside which a detection has the wrong class or place is no missed one: that error is counted.
        threshold: (K,), in the order of `classes`.
        """
        above = self.above(threshold)
        partly = above.near[above.kind.isin(["localisation", "classification"])]
        return self.unfound(threshold).drop(index=partly.unique(), errors="ignore")

    def error_counts(self, threshold: Floats) -> dict[str, int]:
        """How many there are of each of ERRORS above the threshold of each class, (K,)."""
        counts = self.above(threshold).kind.value_counts().to_dict() | {MISSED: len(self.missed(threshold))}
        return {name: int(counts.get(name, 0)) for name in ERRORS}

    def confusions(self, threshold: Floats) -> pd.DataFrame:
        """Every object and every detection above the threshold, by the rule of `scoring.confusions`, of masks by
        their own IoU rather than that of their boxes.

        Columns: image, actual and predicted (labels; -1: background), object and detection (rows; -1: none).
        """
        above, unfound = self.above(threshold), self.unfound(threshold)
        right, wrong = above[above.object >= 0], above[above.object < 0]
        rivals = self.rivals
        rivals = rivals[rivals.detection.isin(wrong.index) & rivals.object.isin(unfound.index)]
        scores = self.detections.score.to_numpy()[rivals.detection.to_numpy(dtype=np.int64)]
        ordered = rivals.iloc[np.lexsort((-rivals.overlap, rivals.detection, -scores))]
        object_of, used = dict[int, int](), set[int]()
        for detection_row, object_row in zip(ordered.detection.tolist(), ordered.object.tolist(), strict=True):
            if detection_row not in object_of and object_row not in used:
                object_of[detection_row] = object_row
                used.add(object_row)
        pairs = [*zip(right.object.tolist(), right.index.tolist(), strict=True)]
        pairs += [(object_row, detection_row) for detection_row, object_row in object_of.items()]
        pairs += [(-1, detection_row) for detection_row in wrong.index.difference([*object_of]).tolist()]
        pairs += [(object_row, -1) for object_row in unfound.index.difference([*object_of.values()]).tolist()]
        table = pd.DataFrame(pairs, columns=["object", "detection"], dtype=np.int64)
        objects, detections = (
            source.reindex(table[name]) for name, source in (("object", self.objects), ("detection", above))
        )
        images = objects.image.reset_index(drop=True).fillna(detections.image.reset_index(drop=True))
        table["image"] = images.astype(np.int64)
        table["actual"], table["predicted"] = (
            frame.label.fillna(-1).to_numpy(np.int64) for frame in (objects, detections)
        )
        return table

    def above(self, threshold: Floats) -> pd.DataFrame:
        """Detections with a score above the threshold of their class."""
        return self.detections[self.detections.score.to_numpy() > self.of_label(threshold, self.detections)]

    def unfound(self, threshold: Floats) -> pd.DataFrame:
        """Objects that no detection above the threshold of their class matches."""
        return self.objects[~(self.objects.matched_score.to_numpy() > self.of_label(threshold, self.objects))]

    def per_image(self, threshold: Floats) -> pd.DataFrame:
        """Objects found and missed, wrong detections, and F1 of each image; F1 is 1 where nothing is there or seen."""
        above, unfound, count = self.above(threshold), self.unfound(threshold), len(self.images)
        tables = {"found": above[above.object >= 0], "wrong": above[above.object < 0], "missed": unfound}
        counts = {name: np.bincount(some.image.to_numpy(np.int64), minlength=count) for name, some in tables.items()}
        hits, total = counts["found"], 2 * counts["found"] + counts["wrong"] + counts["missed"]
        return self.images[["path"]].assign(**counts, f1=np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0))

    def of_label(self, threshold: Floats, table: pd.DataFrame) -> Floats:
        """The threshold of the label of each row of a table; threshold: (K,), in the order of `classes`."""
        values: Floats = threshold[
            np.searchsorted(np.array(list(self.classes), dtype=np.int64), table.label.to_numpy())
        ]
        return values


def _rows(path: Path) -> Iterable[Row]:
    """The detections of a file, one a line."""
    try:
        for line in files.read_text(path).splitlines():
            if line not in ("[", "]", "[]"):
                yield json.loads(line.removesuffix(","))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable ({error}). Write it again: dvc repro -f evaluate") from error


def load(annotations: Row, results: Results, kind: Kind) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    """hotcoco's ground truth and detections; the ids of detections count from 1 in their order."""
    columns = [results.image_id[:, None], results.box, results.score[:, None], results.label[:, None]]
    masks = None if kind == "bbox" else results.segmentation
    return matching.load(annotations, np.concatenate(columns, axis=1), masks)


def _reaching(scores: Floats) -> Ints:
    """How many scores reach each of THRESHOLDS."""
    return len(scores) - np.searchsorted(np.sort(scores), THRESHOLDS, side="left")


def _objects(annotations: Row, images: pd.DataFrame) -> pd.DataFrame:
    rows = [
        (row["id"], row["image_id"], row["category_id"], *row["bbox"], row["area"])
        for row in annotations["annotations"]
        if not row.get("iscrowd", 0)
    ]
    table = pd.DataFrame(rows, columns=["annotation", "image", "label", *_BOX, "area"])
    table = table.astype(
        dict.fromkeys(["annotation", "image", "label"], np.int64) | dict.fromkeys([*_BOX, "area"], float)
    )
    table["image"] = np.searchsorted(images.image_id.to_numpy(), table.image.to_numpy())
    return table.sort_values(["image", "annotation"], ignore_index=True)


@dataclass(frozen=True)
class _Shapes:
    """Boxes or RLEs of objects and detections, by their rows."""

    objects: Sequence[Any]
    detections: Sequence[Any]

    @classmethod
    def of(
        cls, truth: hotcoco.COCO, objects: pd.DataFrame, detections: pd.DataFrame, results: Results, kind: Kind
    ) -> _Shapes:
        if kind == "bbox" or results.segmentation is None:
            return cls(objects[_BOX].to_numpy(), detections[_BOX].to_numpy())
        coded = [truth.ann_to_rle(row) for row in truth.load_anns(objects.annotation.tolist())]
        seen = [results.segmentation[row] for row in detections.row.tolist()]
        return cls(coded, [coded_bytes(mask) for mask in seen])

    def iou(self, first: Sequence[Any], second: Sequence[Any]) -> Floats:
        ious = overlaps.iou(list(first), list(second), [False] * len(second))
        return np.asarray(ious, dtype=np.float64).reshape(len(first), len(second))


def coded_bytes(mask: Row) -> Row:
    """An RLE of a results file, whose counts are text, as the functions of masks take it."""
    counts = mask["counts"]
    return mask | {"counts": counts.encode() if isinstance(counts, str) else counts}


def _spans(table: pd.DataFrame, images: int) -> list[tuple[int, int]]:
    """First and last row of each image in a table sorted by image."""
    borders = np.searchsorted(table.image.to_numpy(), np.arange(images + 1)).tolist()
    return list(itertools.pairwise(borders))


def _kinds(
    images: pd.DataFrame, objects: pd.DataFrame, detections: pd.DataFrame, shapes: _Shapes
) -> tuple[npt.NDArray[Any], Ints, Floats, pd.DataFrame]:
    """Kind, near object and overlap of each detection, and rivals. By TIDE's rules no detection of a lower score plays
    a part."""
    rivals: list[tuple[Ints, Ints, Floats]] = []
    count = len(detections)
    kinds = np.full(count, "background", dtype=object)
    near, overlap = np.full(count, -1, dtype=np.int64), np.zeros(count)
    labels, matched = detections.label.to_numpy(), detections.object.to_numpy()
    order = np.argsort(detections.image.to_numpy(), kind="stable")
    borders = np.searchsorted(detections.image.to_numpy()[order], np.arange(len(images) + 1)).tolist()
    own_labels = objects.label.to_numpy()
    for number, (start, end) in enumerate(_spans(objects, len(images))):
        rows = order[borders[number] : borders[number + 1]]
        if not len(rows) or start == end:
            continue
        ious = shapes.iou([shapes.detections[row] for row in rows.tolist()], shapes.objects[start:end])
        same = labels[rows][:, None] == own_labels[None, start:end]
        of_class, of_other = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
        seen, object_index = np.nonzero(of_other >= POSITIVE)
        rivals.append((rows[seen], object_index + start, of_other[seen, object_index]))
        best, other, most = (matrix.argmax(axis=1) for matrix in (of_class, of_other, ious))
        lines = np.arange(len(rows))
        own, foreign, any_ = of_class[lines, best], of_other[lines, other], ious[lines, most]
        place = (own >= BACKGROUND) & (own <= POSITIVE)
        wrong_class = ~place & (foreign >= POSITIVE)
        twice = ~place & ~wrong_class & (own >= POSITIVE)
        nothing = any_ <= BACKGROUND
        kinds[rows] = np.select(
            [matched[rows] >= 0, place, wrong_class, twice, nothing],
            [RIGHT, "localisation", "classification", "duplicate", "background"],
            "both",
        )
        chosen = np.where(
            matched[rows] >= 0, matched[rows] - start, np.where(wrong_class, other, np.where(place | twice, best, most))
        )
        overlap[rows] = ious[lines, chosen]
        near[rows] = np.where(overlap[rows] > 0, chosen + start, -1)
    columns = [np.concatenate([some[place] for some in rivals] or [np.zeros(0)]) for place in range(3)]
    table = pd.DataFrame(dict(zip(("detection", "object", "overlap"), columns, strict=True)))
    return kinds, near, overlap, table.astype({"detection": np.int64, "object": np.int64, "overlap": float})


def _crowding(images: pd.DataFrame, objects: pd.DataFrame, shapes: _Shapes) -> Floats:
    crowding = np.zeros(len(objects))
    for start, end in _spans(objects, len(images)):
        if end - start > 1:
            ious = shapes.iou(shapes.objects[start:end], shapes.objects[start:end])
            np.fill_diagonal(ious, 0.0)
            crowding[start:end] = ious.max(axis=1)
    return crowding


def costs(analysis: Analysis) -> dict[str, float]:
    """By kind of error, the AP at IoU 0.5 that the detector would gain without it (TIDE); NaN: nothing to measure."""
    if not len(analysis.objects):
        return dict.fromkeys(ERRORS, float("nan"))
    gains: Mapping[str, float] = analysis.evaluator.tide_errors(pos_thr=POSITIVE, bg_thr=BACKGROUND)["delta_ap"]
    return {name: max(0.0, float(gains[short])) for name, short in ERRORS.items()}
