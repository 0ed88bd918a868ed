"""Detections and objects of a split as tables: which detection matches which object, and which kind of error it is.

hotcoco does the matching. It gives the same matches as pycocotools, to the last bit, in a hundredth of the time.
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

POSITIVE = 0.5  # TIDE: with at least this IoU, a detection covers the object
BACKGROUND = 0.1  # TIDE: with at most this IoU, a detection covers nothing
RIGHT = "right"
MISSED = "missed"
# Kind of error -> TIDE's name, in the order in which TIDE tests them (Bolya et al., ECCV 2020, section 2.2).
ERRORS = {
    "localisation": "Loc",
    "classification": "Cls",
    "duplicate": "Dupe",
    "background": "Bkg",
    "both": "Both",
    MISSED: "Miss",
}
Ints = npt.NDArray[np.int64]
_BOX = ["x", "y", "width", "height"]


@dataclass(frozen=True)
class Results:
    """N detections of a split as columns.

    image_id, label, score: (N,). box: left, top, width and height, (N, 4). segmentation: N masks as RLE; None: boxes.
    """

    image_id: Ints
    label: Ints
    box: Floats
    score: Floats
    segmentation: list[Any] | None = None

    @classmethod
    def from_rows(cls, rows: Iterable[Row], masks: Iterable[Row] | None = None) -> Results:
        """Convert detections in COCO's results format.

        masks: the same detections in the same order, with a segmentation.
        """
        columns = [(row["image_id"], row["category_id"], row["score"], *row["bbox"]) for row in rows]
        table = np.array(columns, dtype=np.float64).reshape(-1, 7)
        ids, labels = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        coded = None if masks is None else [row["segmentation"] for row in masks]
        return cls(ids, labels, table[:, 3:], table[:, 2], coded)

    @classmethod
    def read(cls, boxes: Path, masks: Path | None = None) -> Results:
        """Read detections.json and masks.json of an evaluation, which have one detection per line.

        Raises:
            UserError: a file is missing or was not written by an evaluation, or the files differ in length.
        """
        try:
            results = cls.from_rows(_rows(boxes), None if masks is None else _rows(masks))
        except (KeyError, TypeError) as error:
            where = " or ".join(str(path) for path in (boxes, masks) if path)
            raise UserError(
                f"{where} does not contain detections ({error!r}). Write it again: dvc repro -f evaluate"
            ) from error
        if results.segmentation is not None and len(results.segmentation) != len(results.score):
            raise UserError(
                f"{masks} and {boxes} have different numbers of detections. Write both again: dvc repro -f evaluate"
            )
        return results


@dataclass(frozen=True)
class Analysis:
    """The detections of a split, matched with its objects: boxes or masks.

    images: a row for each image, sorted by image_id. Columns: image_id, path, width, height.
    objects: a row for each annotation that is not a crowd region. Columns:
        annotation: its id. image: row of `images`. label, x, y, width, height, area: from the annotation.
        matched_score: score of the detection that matches the object at IoU 0.5; NaN: none does.
        crowding: largest IoU with another object.
    detections: a row for each detection that counts: the best 100 of an image and class, without those that match a
        crowd region. Columns:
        row: index in the results. image: row of `images`. label, score, x, y, width, height, area.
        object: row of the object that it matches; -1: none.
        kind: RIGHT or one of ERRORS.
        near: row of the object that it matches. For an error, the row of the object with the largest IoU. Depending on
            `kind`, only objects of its class, of another class, or all objects are considered. -1: it overlaps none.
        overlap: IoU with `near`.
    class_confusions: a row for each pair of a detection and an object of another class with an IoU of 0.5 or more.
        Columns: detection and object (rows), overlap (IoU).
    classes: names by label.
    """

    kind: Kind
    images: pd.DataFrame
    objects: pd.DataFrame
    detections: pd.DataFrame
    class_confusions: pd.DataFrame
    classes: dict[int, str]
    evaluator: hotcoco.COCOeval

    @classmethod
    def from_results(cls, annotations: Row, results: Results, kind: Kind = "bbox") -> Analysis:
        """Match detections with canonical annotations.

        Args:
            annotations: The content of an annotation file.
            results: All detections on its images.
            kind: Match by the IoU of boxes or of masks.
        """
        classes = {row["id"]: row["name"] for row in sorted(annotations["categories"], key=lambda row: int(row["id"]))}
        columns = [(row["id"], row["file_name"], row["width"], row["height"]) for row in annotations["images"]]
        images = pd.DataFrame(columns, columns=["image_id", "path", "width", "height"])
        images = images.sort_values("image_id", ignore_index=True)
        truth, predictions = load(annotations, results, kind)
        evaluator = matching.evaluate(truth, predictions, kind)
        matches = evaluator.image_diagnostics(iou_thr=POSITIVE, score_thr=0.5)
        objects = _objects(annotations, images)
        counted = np.array(sorted(matches["dt_status"]), dtype=np.int64) - 1  # hotcoco's ids count from 1
        detections = pd.DataFrame(results.box[counted], columns=_BOX)
        detections.insert(0, "row", counted)
        detections.insert(1, "image", np.searchsorted(images.image_id.to_numpy(), results.image_id[counted]))
        detections.insert(2, "label", results.label[counted])
        detections.insert(3, "score", results.score[counted])
        row_of = {annotation: row for row, annotation in enumerate(objects.annotation.tolist())}
        pairs = {number - 1: row_of[annotation] for number, annotation in matches["dt_match"].items()}
        detections["object"] = np.array([pairs.get(row, -1) for row in counted.tolist()], dtype=np.int64)
        ids = (counted + 1).tolist()
        detections["area"] = (
            np.array([row["area"] for row in predictions.load_anns(ids)], dtype=np.float64) if ids else []
        )
        right = detections.object.to_numpy() >= 0
        objects["matched_score"] = np.nan
        objects.loc[detections.object[right], "matched_score"] = detections.score[right].to_numpy()
        shapes = _Shapes.from_tables(truth, objects, detections, results, kind)
        kinds, near, overlap, class_confusions = _kinds(images, objects, detections, shapes)
        detections["kind"], detections["near"], detections["overlap"] = kinds, near, overlap
        objects["crowding"] = _crowding(images, objects, shapes)
        return cls(kind, images, objects, detections, class_confusions, classes, evaluator)

    @cached_property
    def curves(self) -> Floats:
        """Precision, recall and F1 of each class at IoU 0.5 and each of THRESHOLDS, (K, 3, 101).

        NaN: the class has no instance.
        """
        detections = self.detections
        curves = np.full((len(self.classes), 3, len(THRESHOLDS)), np.nan)
        instances = self.objects.groupby("label").size()
        of_class = dict(iter(detections.groupby("label")))
        for row, label in enumerate(self.classes):
            if not (count := int(instances.get(label, 0))):
                continue
            class_detections = of_class.get(label, detections.iloc[:0])
            scores, right = class_detections.score.to_numpy(), class_detections.object.to_numpy() >= 0
            total, hits = (_counts_at_thresholds(values) for values in (scores, scores[right]))
            curves[row] = hits / np.maximum(total, 1), hits / count, 2 * hits / (total + count)
        return curves

    @cached_property
    def mean_curve(self) -> Floats:
        """The mean of `curves` over the classes with instances, (3, 101); NaN if no class has one."""
        present = ~np.isnan(self.curves[:, 0, 0])
        return self.curves[present].mean(axis=0) if present.any() else np.full((3, len(THRESHOLDS)), np.nan)

    def missed(self, threshold: Floats) -> pd.DataFrame:
        """TIDE's "missed" objects: unmatched, and not in the column `near` of a localisation or classification error.

        An object near such an error is not missed: the detection with the wrong place or the wrong class is the error.
        threshold: one per class, (K,), in the order of `classes`.
        """
        above = self.detections_above(threshold)
        partly = above.near[above.kind.isin(["localisation", "classification"])]
        return self.unmatched(threshold).drop(index=partly.unique(), errors="ignore")

    def error_counts(self, threshold: Floats) -> dict[str, int]:
        """The number of errors of each kind above the threshold. threshold: one per class, (K,), see `missed`."""
        counts = self.detections_above(threshold).kind.value_counts().to_dict() | {MISSED: len(self.missed(threshold))}
        return {name: int(counts.get(name, 0)) for name in ERRORS}

    def confusions(self, threshold: Floats) -> pd.DataFrame:
        """A row for each object and each detection above the threshold: its actual and its predicted class.

        They are paired as in `scoring.confusions`, but masks by the IoU of the masks.

        Columns: image, actual and predicted (labels; -1: background), object and detection (rows; -1: none).
        """
        above, unmatched = self.detections_above(threshold), self.unmatched(threshold)
        right, wrong = above[above.object >= 0], above[above.object < 0]
        candidates = self.class_confusions
        candidates = candidates[candidates.detection.isin(wrong.index) & candidates.object.isin(unmatched.index)]
        scores = self.detections.score.to_numpy()[candidates.detection.to_numpy(dtype=np.int64)]
        ordered = candidates.iloc[np.lexsort((-candidates.overlap, candidates.detection, -scores))]
        object_of, used = dict[int, int](), set[int]()
        for detection_row, object_row in zip(ordered.detection.tolist(), ordered.object.tolist(), strict=True):
            if detection_row not in object_of and object_row not in used:
                object_of[detection_row] = object_row
                used.add(object_row)
        pairs = [*zip(right.object.tolist(), right.index.tolist(), strict=True)]
        pairs += [(object_row, detection_row) for detection_row, object_row in object_of.items()]
        pairs += [(-1, detection_row) for detection_row in wrong.index.difference([*object_of]).tolist()]
        pairs += [(object_row, -1) for object_row in unmatched.index.difference([*object_of.values()]).tolist()]
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

    def detections_above(self, threshold: Floats) -> pd.DataFrame:
        """Detections with a score above the threshold of their class."""
        return self.detections[self.detections.score.to_numpy() > self.threshold_of_rows(threshold, self.detections)]

    def unmatched(self, threshold: Floats) -> pd.DataFrame:
        """Objects that no detection above the threshold of their class matches. See also `missed`."""
        return self.objects[~(self.objects.matched_score.to_numpy() > self.threshold_of_rows(threshold, self.objects))]

    def per_image(self, threshold: Floats) -> pd.DataFrame:
        """The number of found and missed objects and of wrong detections of each image, and its F1.

        F1 is 1 for an image without objects and detections.
        """
        above, unmatched, count = self.detections_above(threshold), self.unmatched(threshold), len(self.images)
        tables = {"found": above[above.object >= 0], "wrong": above[above.object < 0], "missed": unmatched}
        counts = {name: np.bincount(table.image.to_numpy(np.int64), minlength=count) for name, table in tables.items()}
        hits, total = counts["found"], 2 * counts["found"] + counts["wrong"] + counts["missed"]
        return self.images[["path"]].assign(**counts, f1=np.where(total > 0, 2 * hits / np.maximum(total, 1), 1.0))

    def threshold_of_rows(self, threshold: Floats, table: pd.DataFrame) -> Floats:
        """For each row of a table the threshold of its label. threshold: (K,), in the order of `classes`."""
        values: Floats = threshold[
            np.searchsorted(np.array(list(self.classes), dtype=np.int64), table.label.to_numpy())
        ]
        return values


def _rows(path: Path) -> Iterable[Row]:
    """The detections of a file with one detection per line."""
    try:
        for line in files.read_text(path).splitlines():
            if line not in ("[", "]", "[]"):
                yield json.loads(line.removesuffix(","))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable ({error}). Write it again: dvc repro -f evaluate") from error


def load(annotations: Row, results: Results, kind: Kind) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    """Build hotcoco's ground truth and detections. The ids of detections count from 1, in the order of the results.

    Args:
        annotations: Canonical COCO annotations.
        results: The detections. Their masks are only used if masks are matched.
        kind: Match boxes or masks.
    """
    columns = [results.image_id[:, None], results.box, results.score[:, None], results.label[:, None]]
    masks = None if kind == "bbox" else results.segmentation
    return matching.load(annotations, np.concatenate(columns, axis=1), masks)


def _counts_at_thresholds(scores: Floats) -> Ints:
    """For each of THRESHOLDS the number of scores that are at least as high."""
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
    """Boxes or RLEs of the objects and detections, in the order of their rows."""

    objects: Sequence[Any]
    detections: Sequence[Any]

    @classmethod
    def from_tables(
        cls, truth: hotcoco.COCO, objects: pd.DataFrame, detections: pd.DataFrame, results: Results, kind: Kind
    ) -> _Shapes:
        if kind == "bbox" or results.segmentation is None:
            return cls(objects[_BOX].to_numpy(), detections[_BOX].to_numpy())
        coded = [truth.ann_to_rle(row) for row in truth.load_anns(objects.annotation.tolist())]
        masks = [results.segmentation[row] for row in detections.row.tolist()]
        return cls(coded, [coded_bytes(mask) for mask in masks])

    def iou(self, first: Sequence[Any], second: Sequence[Any]) -> Floats:
        ious = overlaps.iou(list(first), list(second), [False] * len(second))
        return np.asarray(ious, dtype=np.float64).reshape(len(first), len(second))


def coded_bytes(mask: Row) -> Row:
    """Convert an RLE of a results file, whose counts are text, to the form that mask functions take."""
    counts = mask["counts"]
    return mask | {"counts": counts.encode() if isinstance(counts, str) else counts}


def _spans(table: pd.DataFrame, images: int) -> list[tuple[int, int]]:
    """The first row and the row after the last of each image, in a table sorted by image."""
    borders = np.searchsorted(table.image.to_numpy(), np.arange(images + 1)).tolist()
    return list(itertools.pairwise(borders))


def _kinds(
    images: pd.DataFrame, objects: pd.DataFrame, detections: pd.DataFrame, shapes: _Shapes
) -> tuple[npt.NDArray[Any], Ints, Floats, pd.DataFrame]:
    """The columns `kind`, `near` and `overlap` of the detections, and the table `class_confusions`.

    By TIDE's rules the kind of a detection does not depend on detections with a lower score.
    """
    class_confusions: list[tuple[Ints, Ints, Floats]] = []
    count = len(detections)
    kinds = np.full(count, "background", dtype=object)
    near, overlap = np.full(count, -1, dtype=np.int64), np.zeros(count)
    labels, matched = detections.label.to_numpy(), detections.object.to_numpy()
    order = np.argsort(detections.image.to_numpy(), kind="stable")
    borders = np.searchsorted(detections.image.to_numpy()[order], np.arange(len(images) + 1)).tolist()
    object_labels = objects.label.to_numpy()
    for number, (start, end) in enumerate(_spans(objects, len(images))):
        rows = order[borders[number] : borders[number + 1]]
        if not len(rows) or start == end:
            continue
        ious = shapes.iou([shapes.detections[row] for row in rows.tolist()], shapes.objects[start:end])
        same_class = labels[rows][:, None] == object_labels[None, start:end]
        ious_same, ious_other = np.where(same_class, ious, 0.0), np.where(same_class, 0.0, ious)
        detection_index, object_index = np.nonzero(ious_other >= POSITIVE)
        confused_ious = ious_other[detection_index, object_index]
        class_confusions.append((rows[detection_index], object_index + start, confused_ious))
        best_same, best_other, best_any = (matrix.argmax(axis=1) for matrix in (ious_same, ious_other, ious))
        lines = np.arange(len(rows))
        iou_same, iou_other = ious_same[lines, best_same], ious_other[lines, best_other]
        wrong_place = (iou_same >= BACKGROUND) & (iou_same <= POSITIVE)
        wrong_class = ~wrong_place & (iou_other >= POSITIVE)
        duplicate = ~wrong_place & ~wrong_class & (iou_same >= POSITIVE)
        background = ious[lines, best_any] <= BACKGROUND
        kinds[rows] = np.select(
            [matched[rows] >= 0, wrong_place, wrong_class, duplicate, background],
            [RIGHT, "localisation", "classification", "duplicate", "background"],
            "both",
        )
        nearest = np.where(wrong_class, best_other, np.where(wrong_place | duplicate, best_same, best_any))
        chosen = np.where(matched[rows] >= 0, matched[rows] - start, nearest)
        overlap[rows] = ious[lines, chosen]
        near[rows] = np.where(overlap[rows] > 0, chosen + start, -1)
    columns = [np.concatenate([arrays[k] for arrays in class_confusions] or [np.zeros(0)]) for k in range(3)]
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
    """By kind of error: how much higher the AP at IoU 0.5 would be without these errors (TIDE).

    NaN: the split has no object.
    """
    if not len(analysis.objects):
        return dict.fromkeys(ERRORS, float("nan"))
    gains: Mapping[str, float] = analysis.evaluator.tide_errors(pos_thr=POSITIVE, bg_thr=BACKGROUND)["delta_ap"]
    return {name: max(0.0, float(gains[short])) for name, short in ERRORS.items()}
