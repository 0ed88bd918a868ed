"""Pictures that `kit.gallery` and `kit.cards` place: images with shapes drawn over them, and captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image


class Shape(NamedTuple):
    """A box over a picture, in its pixels, with a mask if it has an outline.

    group: the place of its name and colour in the groups of the gallery. style: "" (plain), "crowd", "dashed" or
    "bold". outline: the path of an SVG. text: drawn beside the name, such as a score.
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
    """An image. source: a data URI. width, height: its pixels."""

    source: str
    width: int
    height: int
    shapes: Sequence[Shape] = ()


def as_jpeg(picture: Image.Image, quality: int) -> Picture:
    """A picture as JPEG in a data URI; equal pixels, equal bytes."""
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    return Picture(source, picture.width, picture.height)


class Group(NamedTuple):
    """What shapes of one kind are: a name, drawn in the picture, and a colour of CSS. unnamed: only in the tooltip."""

    name: str
    color: str
    unnamed: bool = False


@dataclass(frozen=True)
class Card:
    """A picture with lines below: texts, or `Name` of names from the dataset. facets: what to filter by -> values."""

    picture: Picture
    lines: Sequence[Any] = ()
    facets: dict[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gallery:
    """Cards with filters above.

    groups: of their shapes. filters: facet of the cards -> the text for all its values ("all splits"), which is also
    the label that `Setter` and `Choose` name. of_groups: the facet that chooses among the groups: other shapes are
    hidden then. names: whether names are drawn at first. anchor: the id. size: cards of a page. columns: how wide the
    cards are: "pictures", "thumbs", "pairs" or "sides".
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
        """Of each filter that has a choice: the facet, its label and its values; of groups in their order."""
        filters = []
        for facet, label in self.filters.items():
            values = list(dict.fromkeys(value for card in self.cards for value in card.facets.get(facet, ())))
            if facet == self.of_groups:
                order = {group.name: place for place, group in enumerate(self.groups)}
                values.sort(key=lambda value: order.get(value, len(order)))
            if len(values) > 1:
                filters.append((facet, label, values))
        return filters

    def data(self) -> dict[str, Any]:
        """What the script draws and filters by."""
        filters = self.values()
        places = [(facet, {value: place for place, value in enumerate(values)}) for facet, _, values in filters]
        facets = [facet for facet, _ in places]
        every = [[[at[value] for value in card.facets.get(facet, ())] for facet, at in places] for card in self.cards]
        return {
            "groups": self.groups,
            "ofGroups": facets.index(self.of_groups) if self.of_groups in facets else -1,
            "shapes": [[_without_rest(shape) for shape in card.picture.shapes] for card in self.cards],
            "facets": every,
        }


def _without_rest(shape: Shape) -> list[Any]:
    """The values of a shape up to the last one that is not empty."""
    values: list[Any] = [*shape]
    while values[-1] == "":
        values.pop()
    return values
