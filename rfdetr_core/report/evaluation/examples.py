"""Pictures on the page of an evaluation: whole images, errors and suspected labels, with what was seen and missed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rfdetr_core.evaluation.analysis import MISSED, RIGHT, Results
from rfdetr_core.evaluation.suspects import suspects
from rfdetr_core.metrics.coco import Row
from rfdetr_core.report.evaluation.album import Album, Outline
from rfdetr_core.report.evaluation.sections import Kind
from rfdetr_core.report.evaluation.sketch import GROUPS, SEEN, Sketch
from rfdetr_core.report.gallery import Card, Gallery, Picture
from rfdetr_core.report.tables import Name
from rfdetr_core.report.text import isolated

# Of the most frequent confusions some pictures are shown, of others one.
_SEVERAL, _EACH, _PAIRS = 40, 3, 200
# Bytes of the pictures of a gallery, so that the page stays below 20 MB.
_BUDGET = {"images": 6_000_000, "errors": 3_000_000, "suspects": 3_000_000}
_PARTLY = ""  # an object beside which a detection has the wrong place or class: that one is the error


class Pictures:
    """Asks the album for pictures of boxes or masks, and makes the galleries of them when it is developed."""

    def __init__(self, kind: Kind, confusions: pd.DataFrame, album: Album, results: Results, annotations: Row) -> None:
        self._kind, self._confusions, self._album = kind, confusions, album
        self._sketch = Sketch(kind.analysis, kind.thresholds, results, annotations)
        self._above = self._sketch.above
        self.per_image = kind.analysis.per_image(kind.thresholds)
        self._cards: dict[str, list[tuple[int, list[Any], Any]]] = {}
        self.pictured: set[tuple[int, int]] = set()  # the confusions with a crop: actual and predicted label

    def ask_for_images(self, most: int) -> None:
        """Whole images, those with the lowest F1 first."""
        paths = self._kind.analysis.images.path
        order = self.per_image.sort_values(["f1", "path"], kind="stable").index[:most].tolist()
        wrong = self._above[self._above.object < 0].groupby("image").kind.unique()
        missed = self._kind.analysis.missed(self._kind.thresholds).image.unique()
        cards = self._cards.setdefault("images", [])
        for image in order:
            row = self.per_image.loc[image]
            kinds = sorted(wrong.get(image, [])) + ([MISSED] if image in missed else [])
            lines = [
                Name(paths[image]),
                f"F1 {row.f1:.2f}: {row.found:.0f} found, {row.wrong:.0f} wrong, {row.missed:.0f} missed",
            ]
            cards.append((self._album.whole(image, self._sketch.whole(image)), lines, {"error": kinds or ["no error"]}))

    def ask_for_errors(self, most: int) -> None:
        """Crops of the worst errors: of each kind those with the highest scores, and some of each confusion."""
        detections, objects = self._kind.analysis.detections, self._kind.analysis.objects
        table = self._confusions
        seen = table.detection.to_numpy()
        kinds = np.append(detections.kind.to_numpy(), RIGHT)[seen]
        scores = np.append(detections.score.to_numpy(), np.nan)[seen]
        areas = np.append(objects.area.to_numpy(), 0.0)[table.object.to_numpy()]
        missed = set(self._kind.analysis.missed(self._kind.thresholds).index.tolist())
        lost = np.array([object_row in missed for object_row in table.object.tolist()], dtype=bool) & (seen < 0)
        table = table.assign(kind=np.where(lost, MISSED, np.where(seen < 0, _PARTLY, kinds)), score=scores, area=areas)
        table = table[table.kind != RIGHT]
        table = table.sort_values(["score", "area", "image"], ascending=[False, False, True], kind="stable")
        pairs = table.groupby(["actual", "predicted"])
        order = pairs.size().sort_values(ascending=False, kind="stable").index[:_PAIRS] if most else []
        each = {pair: _EACH if place < _SEVERAL else 1 for place, pair in enumerate(order)}
        keys = pd.MultiIndex.from_frame(table[["actual", "predicted"]])
        of_pair = table[pairs.cumcount().to_numpy() < np.array([each.get(pair, 0) for pair in keys], dtype=np.int64)]
        of_kind = table[table.kind != _PARTLY].groupby("kind").head(most)
        self.pictured = set(each)
        names = self._kind.names
        cards = self._cards.setdefault("errors", [])
        shown = table.loc[of_kind.index.union(of_pair.index)]
        for row in shown.sort_values(
            ["score", "area", "image"], ascending=[False, False, True], kind="stable"
        ).itertuples():
            detection, object_row = int(row.detection), int(row.object)
            near = int(detections.near[detection]) if detection >= 0 else object_row
            about = [self._sketch.label(near)] if near >= 0 else []
            about += [self._sketch.detection(detection)] if detection >= 0 else []
            path = Name(self._kind.analysis.images.path[row.image])
            caption = f"{row.kind}, score {row.score:.2f}" if detection >= 0 else str(row.kind or "found in part")
            facets = {"label": [names[row.actual]], "detection": [names[row.predicted]]}
            facets["kind"] = [str(row.kind)] if row.kind else []
            cards.append((self._crop(int(row.image), about), [path, caption], facets))

    def ask_for_suspects(self, most: int) -> pd.DataFrame:
        """Crops of the first suspected label errors; all of them as a table."""
        table = suspects(self._kind.analysis)
        rows = {path: number for number, path in enumerate(self._kind.analysis.images.path)}
        places = {annotation: row for row, annotation in enumerate(self._kind.analysis.objects.annotation.tolist())}
        cards = self._cards.setdefault("suspects", [])
        for row in table.head(most).itertuples():
            label, detected = (isolated(name) if name else "none" for name in (row.label, row.detected))
            caption = f"{row.suspicion}: label {label}, detected {detected}"
            about = [] if pd.isna(row.annotation) else [self._sketch.label(places[int(row.annotation)])]
            if row.detected:
                box, text = (row.x, row.y, row.width, row.height), f"{row.detected} {row.score:.2f}"
                about.append(Outline(box, SEEN, "bold", text))
            lines = [Name(row.image), caption, f"certainty {row.certainty:.2f}"]
            cards.append((self._crop(rows[row.image], about), lines, {"suspicion": [row.suspicion]}))
        return table

    def gallery(
        self, name: str, pictures: Sequence[Picture], filters: dict[str, str], *, noun: str, names: bool = True
    ) -> Gallery:
        """The gallery of what was asked for, the first as far as its budget goes."""
        cards, left = [], _BUDGET[name]
        for ticket, lines, facets in self._cards.get(name, []):
            picture = pictures[ticket]
            left -= len(picture.source) + sum(len(shape.outline) for shape in picture.shapes)
            if left < 0:
                break
            cards.append(Card(picture, lines, facets))
        anchor = f"{self._kind.anchor}-{name}"
        return Gallery(cards, GROUPS, filters, names=names, anchor=anchor, noun=noun, size=24, columns="thumbs")

    def _crop(self, image: int, about: Sequence[Outline]) -> int:
        """A crop around the last of some outlines, with all labels that lie in it."""
        return self._album.crop(image, about[-1].box, self._sketch.around(image, about))
