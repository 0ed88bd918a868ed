"""Pictures with shapes and captions, as galleries and cards. The macros `kit.gallery` and `kit.cards` place them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image


class Shape(NamedTuple):
    """A box over a picture, in pixels of the picture, with a mask if it has an outline.

    group: the index of its legend entry, see `Gallery.groups`. style: "" (plain), "crowd", "dashed" or
    "bold". outline: an SVG path. text: drawn beside the name, such as a score.
    """

    group: int
    x: float
    y: float
    width: float
    height: float
    style: str = ""
    outline: str = ""
    text: str = ""


class Picture(NamedTuple):
    """An image. source: a data URI. width, height: in pixels."""

    source: str
    width: int
    height: int
    shapes: Sequence[Shape] = ()


def as_jpeg(picture: Image.Image, quality: int) -> Picture:
    """Encode a picture as a JPEG in a data URI. Equal pixels give equal bytes."""
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    return Picture(source, picture.width, picture.height)


class Group(NamedTuple):
    """The legend entry for shapes of one kind. name: drawn in the picture. color: a CSS colour.

    unnamed: the name is only in the tooltip.
    """

    name: str
    color: str
    unnamed: bool = False


@dataclass(frozen=True)
class Card:
    """A picture with lines below it: texts, or `Name` for names from the dataset.

    facets: for each facet, such as "class", the values of this card. A gallery can be filtered by them.
    """

    picture: Picture
    lines: Sequence[Any] = ()
    facets: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Cards with filters above them.

    groups: the legend entries of the shapes.
    filters: facet -> the text of the option that shows all values ("all splits"). `Setter` and `Choose` use the same
        text to say which filter they set.
    of_groups: the facet whose values are names of `groups`, such as the class. If a reader chooses a value, shapes of
        other groups are hidden.
    names: whether names are drawn at first. anchor: the HTML id. noun: the noun for a card. size: cards per page.
    columns: the width of the cards: "pictures", "thumbs", "pairs" or "sides".
    """

    cards: Sequence[Card]
    groups: Sequence[Group] = ()
    filters: dict[str, str] = field(default_factory=dict)
    of_groups: str | None = None
    names: bool = True
    anchor: str | None = None
    noun: str = "picture"
    size: int = 60
    columns: str = "pictures"

    @property
    def has_masks(self) -> bool:
        """Whether any shape has an outline."""
        return any(shape.outline for card in self.cards for shape in card.picture.shapes)

    @property
    def has_shapes(self) -> bool:
        """Whether anything is drawn."""
        return any(card.picture.shapes for card in self.cards)

    def values(self) -> list[tuple[str, str, list[str]]]:
        """Facet, text and values of each filter with at least two values. Names of groups are in their order."""
        filters = []
        for facet, label in self.filters.items():
            values = list(dict.fromkeys(value for card in self.cards for value in card.facets.get(facet, ())))
            if facet == self.of_groups:
                order = {group.name: index for index, group in enumerate(self.groups)}
                values.sort(key=lambda value: order.get(value, len(order)))
            if len(values) > 1:
                filters.append((facet, label, values))
        return filters

    def data(self) -> dict[str, Any]:
        """The data for the script: groups, shapes and facets."""
        filters = self.values()
        places = [(facet, {value: index for index, value in enumerate(values)}) for facet, _, values in filters]
        facets = [facet for facet, _ in places]
        indices = [
            [[index_of[value] for value in card.facets.get(facet, ())] for facet, index_of in places]
            for card in self.cards
        ]
        return {
            "groups": self.groups,
            "ofGroups": facets.index(self.of_groups) if self.of_groups in facets else -1,
            "shapes": [[_without_trailing_empty(shape) for shape in card.picture.shapes] for card in self.cards],
            "facets": indices,
        }


def _without_trailing_empty(shape: Shape) -> list[Any]:
    """The values of a shape without the empty ones at the end."""
    values: list[Any] = [*shape]
    while values[-1] == "":
        values.pop()
    return values
