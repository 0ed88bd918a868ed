"""Pictures of what changed: images side by side, and crops of objects and wrong detections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rfdetr_core.evaluation.changes import ADDED, BETTER, CHANGES, FOUND, WORSE, Changes
from rfdetr_core.evaluation.comparison import Comparison
from rfdetr_core.report.evaluation.album import Album
from rfdetr_core.report.evaluation.sketch import GROUPS, Sketch
from rfdetr_core.report.gallery import Card, Gallery, Picture
from rfdetr_core.report.tables import Name

if TYPE_CHECKING:
    import pandas as pd

ERRORS_ANCHOR, ALL_CHANGES, ALL_CLASSES = "changed-errors", "all changes", "all classes"


class Pictures:
    """Asks the album for pictures, the largest changes first, and places them when it is developed.

    most: of each kind of change.
    """

    def __init__(self, scores: Comparison, changes: Changes, album: Album, most: int) -> None:
        sides = (scores.old, scores.new)
        old, new = (Sketch(one.analysis, one.thresholds, one.results, scores.annotations) for one in sides)
        names = new.analysis.classes
        self._pairs: list[tuple[str, Any, int, int]] = []
        table = changes.images
        gained, lost = table[table.change > 0], table[table.change < 0].iloc[::-1]
        for title, some in ((BETTER, gained.head(most)), (WORSE, lost.head(most))):
            for row in some.itertuples():
                views = [album.whole(int(row.image), sketch.whole(int(row.image))) for sketch in (old, new)]
                self._pairs.append((title, row, views[0], views[1]))
        self._cards: list[tuple[int, list[Any], dict[str, Sequence[str]]]] = []
        for row in _first(changes.objects, most):
            label = new.analysis.objects.loc[row.object]
            sketch = new if row.change == FOUND else old
            about = [sketch.detection(int(row.detection)), new.label(int(row.object))]
            self._crop(album, sketch, int(label.image), about, row, names[int(label.label)])
        for row in _first(changes.detections, most):
            sketch = new if row.change == ADDED else old
            seen = sketch.analysis.detections.loc[row.detection]
            about = [sketch.label(int(seen.near))] if seen.near >= 0 else []
            about.append(sketch.detection(int(row.detection)))
            self._crop(album, sketch, int(seen.image), about, row, names[int(seen.label)], f", {seen.kind}")

    def _crop(
        self, album: Album, sketch: Sketch, image: int, about: list[Any], row: Any, name: str, more: str = ""
    ) -> None:
        ticket = album.crop(image, about[-1].box, sketch.around(image, about))
        lines = [Name(sketch.analysis.images.path[image]), f"{row.change}{more}, score {row.score:.2f}"]
        self._cards.append((ticket, lines, {"change": [row.change], "class": [name]}))

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


def _first(table: pd.DataFrame, most: int) -> Iterator[Any]:
    """The first rows of each kind of change, kind by kind."""
    for change in CHANGES:
        yield from table[table.change == change].head(most).itertuples()
