"""The pictures on the evaluation page: whole images, crops of errors, and crops of suspected label errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rfdetr_core.evaluation.analysis import MISSED, RIGHT, Results
from rfdetr_core.evaluation.suspects import suspects
from rfdetr_core.metrics.coco import Row
from rfdetr_core.report.evaluation.overlays import DETECTION, GROUPS, Overlays
from rfdetr_core.report.evaluation.picture_requests import Outline, PictureRequests
from rfdetr_core.report.evaluation.sections import Kind
from rfdetr_core.report.gallery import Card, Gallery, Picture
from rfdetr_core.report.tables import Name
from rfdetr_core.report.text import isolated

_PAIRS = 200  # how many confusions have pictures: the most frequent ones
_SEVERAL, _EACH = 40, 3  # the _SEVERAL most frequent confusions have _EACH pictures, the others have one
# The most bytes for the pictures of a gallery. With these the page stays below 20 MB.
_BUDGET = {"images": 6_000_000, "errors": 3_000_000, "suspects": 3_000_000}
# The empty kind: no detection matches the object, but it does not count as missed. A detection near it has the wrong
# place or class, and this detection counts as the error.
_PARTLY = ""


class Pictures:
    """The pictures of boxes or masks.

    The methods `request_...` request the pictures. When `requests` are rendered, `gallery` places them.
    """

    def __init__(
        self, kind: Kind, confusions: pd.DataFrame, requests: PictureRequests, results: Results, annotations: Row
    ) -> None:
        self._kind, self._confusions, self._requests = kind, confusions, requests
        self._overlays = Overlays(kind.analysis, kind.thresholds, results, annotations)
        self._above = self._overlays.above
        self.per_image = kind.analysis.per_image(kind.thresholds)
        self._cards: dict[str, list[tuple[int, list[Any], Any]]] = {}
        self.pictured: set[tuple[int, int]] = set()  # the confusions with a crop: actual and predicted label

    def request_images(self, most: int) -> None:
        """Request at most `most` whole images, those with the lowest F1 first."""
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
            cards.append(
                (
                    self._requests.request_image(image, self._overlays.first_outlines(image)),
                    lines,
                    {"error": kinds or ["no error"]},
                )
            )

    def request_errors(self, most: int) -> None:
        """Request crops of errors: of each kind the `most` with the highest scores, and some of each confusion."""
        detections, objects = self._kind.analysis.detections, self._kind.analysis.objects
        table = self._confusions
        rows = table.detection.to_numpy()  # -1 (no detection) reads the last value, which np.append adds below
        kinds = np.append(detections.kind.to_numpy(), RIGHT)[rows]
        scores = np.append(detections.score.to_numpy(), np.nan)[rows]
        areas = np.append(objects.area.to_numpy(), 0.0)[table.object.to_numpy()]
        missed = set(self._kind.analysis.missed(self._kind.thresholds).index.tolist())
        lost = np.array([object_row in missed for object_row in table.object.tolist()], dtype=bool) & (rows < 0)
        table = table.assign(kind=np.where(lost, MISSED, np.where(rows < 0, _PARTLY, kinds)), score=scores, area=areas)
        table = table[table.kind != RIGHT]
        table = table.sort_values(["score", "area", "image"], ascending=[False, False, True], kind="stable")
        pairs = table.groupby(["actual", "predicted"])
        order = pairs.size().sort_values(ascending=False, kind="stable").index[:_PAIRS] if most else []
        pictures_of = {pair: _EACH if rank < _SEVERAL else 1 for rank, pair in enumerate(order)}
        keys = pd.MultiIndex.from_frame(table[["actual", "predicted"]])
        most_of_pair = np.array([pictures_of.get(pair, 0) for pair in keys], dtype=np.int64)
        of_pair = table[pairs.cumcount().to_numpy() < most_of_pair]
        of_kind = table[table.kind != _PARTLY].groupby("kind").head(most)
        self.pictured = set(pictures_of)
        names = self._kind.names
        cards = self._cards.setdefault("errors", [])
        chosen = table.loc[of_kind.index.union(of_pair.index)]
        for row in chosen.sort_values(
            ["score", "area", "image"], ascending=[False, False, True], kind="stable"
        ).itertuples():
            detection, object_row = int(row.detection), int(row.object)
            near = int(detections.near[detection]) if detection >= 0 else object_row
            outlines = [self._overlays.label(near)] if near >= 0 else []
            outlines += [self._overlays.detection(detection)] if detection >= 0 else []
            path = Name(self._kind.analysis.images.path[row.image])
            caption = f"{row.kind}, score {row.score:.2f}" if detection >= 0 else str(row.kind or "found in part")
            facets = {"label": [names[row.actual]], "detection": [names[row.predicted]]}
            facets["kind"] = [str(row.kind)] if row.kind else []
            cards.append((self._crop(int(row.image), outlines), [path, caption], facets))

    def request_suspects(self, most: int) -> pd.DataFrame:
        """Request crops of the first `most` suspected label errors. Returns all of them as a table."""
        table = suspects(self._kind.analysis)
        rows = {path: number for number, path in enumerate(self._kind.analysis.images.path)}
        places = {annotation: row for row, annotation in enumerate(self._kind.analysis.objects.annotation.tolist())}
        cards = self._cards.setdefault("suspects", [])
        for row in table.head(most).itertuples():
            label, detected = (isolated(name) if name else "none" for name in (row.label, row.detected))
            caption = f"{row.suspicion}: label {label}, detected {detected}"
            outlines = [] if pd.isna(row.annotation) else [self._overlays.label(places[int(row.annotation)])]
            if row.detected:
                box, text = (row.x, row.y, row.width, row.height), f"{row.detected} {row.score:.2f}"
                outlines.append(Outline(box, DETECTION, "bold", text))
            lines = [Name(row.image), caption, f"certainty {row.certainty:.2f}"]
            cards.append((self._crop(rows[row.image], outlines), lines, {"suspicion": [row.suspicion]}))
        return table

    def gallery(
        self, name: str, pictures: Sequence[Picture], filters: dict[str, str], *, noun: str, names: bool = True
    ) -> Gallery:
        """A gallery of the requested pictures: as many as its budget of bytes allows.

        Args:
            name: "images", "errors" or "suspects".
            pictures: The rendered pictures.
            filters: See `Gallery`.
            noun: The noun for a card.
            names: Whether names are drawn at first.
        """
        cards, left = [], _BUDGET[name]
        for ticket, lines, facets in self._cards.get(name, []):
            picture = pictures[ticket]
            left -= len(picture.source) + sum(len(shape.outline) for shape in picture.shapes)
            if left < 0:
                break
            cards.append(Card(picture, lines, facets))
        anchor = f"{self._kind.anchor}-{name}"
        return Gallery(cards, GROUPS, filters, names=names, anchor=anchor, noun=noun, size=24, columns="thumbs")

    def _crop(self, image: int, outlines: Sequence[Outline]) -> int:
        """Request a crop around the last outline. All labels in the crop are drawn too."""
        return self._requests.request_crop(image, outlines[-1].box, self._overlays.with_labels(image, outlines))
