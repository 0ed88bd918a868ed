"""Pictures of the changes between two models: images side by side, and crops of objects and wrong detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rfdetr_core.evaluation.changes import ADDED, BETTER, CHANGES, FOUND, WORSE, Changes
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.report.evaluation.overlays import GROUPS, Overlays
from rfdetr_core.report.evaluation.picture_requests import Box, Outline, PictureRequests
from rfdetr_core.report.gallery import Card, Gallery, Picture
from rfdetr_core.report.tables import Name

if TYPE_CHECKING:
    import pandas as pd

ERRORS_ANCHOR, ALL_CHANGES, ALL_CLASSES = "changed-errors", "all changes", "all classes"


class Change(NamedTuple):
    """An object that only one model finds, or a wrong detection that only one model makes.

    change: one of CHANGES. image: row of the image. label: number of the class. score: of the detection.
    kind: TIDE's kind of error of a wrong detection; else "".
    overlays: the overlays of the model that finds the object or makes the wrong detection.
    outlines: the outlines of the object and of the detection. The last outline is the one that changed; the crop is
        centred on it.
    """

    change: str
    image: int
    label: int
    score: float
    kind: str
    overlays: Overlays
    outlines: list[Outline]

    @property
    def box(self) -> Box:
        """The box in the middle of the crop."""
        return self.outlines[-1].box


class Pictures:
    """The pictures of a comparison, the largest changes first.

    The constructor requests the pictures. When `requests` are rendered, `pairs` and `gallery` place them.
    most: the highest number of pictures of each kind of change.
    """

    def __init__(self, scores: Comparison, changes: Changes, requests: PictureRequests, most: int) -> None:
        sides = (scores.old, scores.new)
        old, new = (Overlays(side.analysis, side.thresholds, side.results, scores.annotations) for side in sides)
        names = new.analysis.classes
        self._pairs: list[tuple[str, Any, int, int]] = []
        table = changes.images
        gained, lost = table[table.change > 0], table[table.change < 0].iloc[::-1]
        for title, table_part in ((BETTER, gained.head(most)), (WORSE, lost.head(most))):
            for row in table_part.itertuples():
                views = [
                    requests.request_image(int(row.image), overlays.first_outlines(int(row.image)))
                    for overlays in (old, new)
                ]
                self._pairs.append((title, row, views[0], views[1]))
        self._cards: list[tuple[int, list[Any], dict[str, Sequence[str]]]] = []
        for change in [*changed_objects(changes, old, new, most), *changed_detections(changes, old, new, most)]:
            ticket = requests.request_crop(
                change.image, change.box, change.overlays.with_labels(change.image, change.outlines)
            )
            caption = ", ".join([change.change, *filter(None, [change.kind]), f"score {change.score:.2f}"])
            lines = [Name(new.analysis.images.path[change.image]), caption]
            self._cards.append((ticket, lines, {"change": [change.change], "class": [names[change.label]]}))

    def pairs(self, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        """The images that got better, then those that got worse. Each has a gallery with two pictures: A and B."""
        return [
            {
                "title": title,
                "path": row.path,
                "change": row.change,
                "sides": Gallery(
                    [Card(pictures[old], [f"A: F1 {row.old:.2f}"]), Card(pictures[new], [f"B: F1 {row.new:.2f}"])],
                    GROUPS,
                    names=False,
                    columns="sides",
                ),
            }
            for title, row, old, new in self._pairs
        ]

    def gallery(self, pictures: Sequence[Picture]) -> Gallery:
        """The crops of the objects that only one model finds, and of the wrong detections that only one model makes."""
        cards = [Card(pictures[ticket], lines, facets) for ticket, lines, facets in self._cards]
        filters = {"change": ALL_CHANGES, "class": ALL_CLASSES}
        return Gallery(cards, GROUPS, filters, anchor=ERRORS_ANCHOR, noun="change", size=24, columns="thumbs")


def changed_objects(changes: Changes, old: Overlays, new: Overlays, most: int) -> Iterator[Change]:
    """The objects that only one model finds, the highest scores first.

    Args:
        changes: The changes from the first model to the second.
        old: The shapes of the first model.
        new: The shapes of the second model.
        most: The highest number of objects for each model.
    """
    for row in _first(changes.objects, most):
        label, overlays = new.analysis.objects.loc[row.object], new if row.change == FOUND else old
        outlines = [overlays.detection(int(row.detection)), new.label(int(row.object))]
        yield Change(row.change, int(label.image), int(label.label), float(row.score), "", overlays, outlines)


def changed_detections(changes: Changes, old: Overlays, new: Overlays, most: int) -> Iterator[Change]:
    """The wrong detections that only one model makes, the highest scores first.

    Args:
        changes: The changes from the first model to the second.
        old: The shapes of the first model.
        new: The shapes of the second model.
        most: The highest number of detections for each model.
    """
    for row in _first(changes.detections, most):
        overlays = new if row.change == ADDED else old
        detection = overlays.analysis.detections.loc[row.detection]
        outlines = [overlays.label(int(detection.near))] if detection.near >= 0 else []
        outlines.append(overlays.detection(int(row.detection)))
        image, label, score = int(detection.image), int(detection.label), float(row.score)
        yield Change(row.change, image, label, score, detection.kind, overlays, outlines)


def _first(table: pd.DataFrame, most: int) -> Iterator[Any]:
    """The first `most` rows of each kind of change."""
    for change in CHANGES:
        yield from table[table.change == change].head(most).itertuples()
