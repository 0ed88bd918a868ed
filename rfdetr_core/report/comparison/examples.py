"""Pictures of what changed: images side by side, and crops of objects and wrong detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rfdetr_core.evaluation.changes import ADDED, BETTER, CHANGES, FOUND, WORSE, Changes
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.report.evaluation.album import Album, Box, Outline
from rfdetr_core.report.evaluation.sketch import GROUPS, Sketch
from rfdetr_core.report.gallery import Card, Gallery, Picture
from rfdetr_core.report.tables import Name

if TYPE_CHECKING:
    import pandas as pd

ERRORS_ANCHOR, ALL_CHANGES, ALL_CLASSES = "changed-errors", "all changes", "all classes"


class Changed(NamedTuple):
    """An object that one model alone finds, or a wrong detection that one alone makes.

    change: one of CHANGES. image: its row. label: the number of the class. score: of the detection. kind: of a wrong
    detection, TIDE's kind of error; else empty. sketch: of the model that finds or makes it. outlines: the object and
    the detection; a crop is around the last.
    """

    change: str
    image: int
    label: int
    score: float
    kind: str
    sketch: Sketch
    outlines: list[Outline]

    @property
    def box(self) -> Box:
        """What a crop is around."""
        return self.outlines[-1].box


class Pictures:
    """Asks the album for pictures, the largest changes first, and places them when it is developed.

    most: of each kind of change.
    """

    def __init__(self, scores: Comparison, changes: Changes, album: Album, most: int) -> None:
        sides = (scores.old, scores.new)
        old, new = (Sketch(side.analysis, side.thresholds, side.results, scores.annotations) for side in sides)
        names = new.analysis.classes
        self._pairs: list[tuple[str, Any, int, int]] = []
        table = changes.images
        gained, lost = table[table.change > 0], table[table.change < 0].iloc[::-1]
        for title, some in ((BETTER, gained.head(most)), (WORSE, lost.head(most))):
            for row in some.itertuples():
                views = [album.whole(int(row.image), sketch.whole(int(row.image))) for sketch in (old, new)]
                self._pairs.append((title, row, views[0], views[1]))
        self._cards: list[tuple[int, list[Any], dict[str, Sequence[str]]]] = []
        for change in [*changed_objects(changes, old, new, most), *changed_detections(changes, old, new, most)]:
            ticket = album.crop(change.image, change.box, change.sketch.around(change.image, change.outlines))
            caption = ", ".join([change.change, *filter(None, [change.kind]), f"score {change.score:.2f}"])
            lines = [Name(new.analysis.images.path[change.image]), caption]
            self._cards.append((ticket, lines, {"change": [change.change], "class": [names[change.label]]}))

    def pairs(self, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
        """Images that got better, then worse, each with a gallery of two: A and B."""
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
        """Crops of objects found and lost, and of wrong detections gone and added."""
        cards = [Card(pictures[ticket], lines, facets) for ticket, lines, facets in self._cards]
        filters = {"change": ALL_CHANGES, "class": ALL_CLASSES}
        return Gallery(cards, GROUPS, filters, anchor=ERRORS_ANCHOR, noun="change", size=24, columns="thumbs")


def changed_objects(changes: Changes, old: Sketch, new: Sketch, most: int) -> Iterator[Changed]:
    """Objects found and lost, at most so many of each, the highest scores first."""
    for row in _first(changes.objects, most):
        label, sketch = new.analysis.objects.loc[row.object], new if row.change == FOUND else old
        outlines = [sketch.detection(int(row.detection)), new.label(int(row.object))]
        yield Changed(row.change, int(label.image), int(label.label), float(row.score), "", sketch, outlines)


def changed_detections(changes: Changes, old: Sketch, new: Sketch, most: int) -> Iterator[Changed]:
    """Wrong detections gone and added, at most so many of each, the highest scores first."""
    for row in _first(changes.detections, most):
        sketch = new if row.change == ADDED else old
        seen = sketch.analysis.detections.loc[row.detection]
        outlines = [sketch.label(int(seen.near))] if seen.near >= 0 else []
        outlines.append(sketch.detection(int(row.detection)))
        yield Changed(row.change, int(seen.image), int(seen.label), float(row.score), seen.kind, sketch, outlines)


def _first(table: pd.DataFrame, most: int) -> Iterator[Any]:
    """The first rows of each kind of change, kind by kind."""
    for change in CHANGES:
        yield from table[table.change == change].head(most).itertuples()
