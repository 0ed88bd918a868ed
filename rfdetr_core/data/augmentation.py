"""Training augmentation: the crop, and one function for each other change of an image.

To add one, write a function with `@augmentation`: its key in `train.augmentation`, its line in docs/parameters.md and
its call follow from that. Torch is imported within functions, so that `check` reads the settings without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from pydantic import Field, create_model, model_validator

from rfdetr_core.base.params import Config

if TYPE_CHECKING:
    from torch import Generator

    from rfdetr_core.data.dataset import Example

Change = Callable[["Example", float, "Generator"], "Example"]
Stream = Callable[..., "Generator"]  # called with a name: the stream of that augmentation; without: the shared one
C = TypeVar("C", bound=Config)
_JPEG_SCALES = (8, 4, 2)


class View(NamedTuple):
    """A rectangle of an upright image, in pixels of its full size."""

    top: int
    left: int
    height: int
    width: int

    def reduction(self, side: int) -> int:
        """The most by which a JPEG may be reduced while decoding, so that side x side pixels of the view are left."""
        return next((factor for factor in _JPEG_SCALES if min(self.height, self.width) >= factor * side), 1)

    def widened(self, factor: int) -> View:
        """The smallest view around this one that begins and ends between the pixels of the reduced image."""
        top, left = self.top // factor * factor, self.left // factor * factor
        bottom, right = (-(-end // factor) * factor for end in (self.top + self.height, self.left + self.width))
        return View(top, left, bottom - top, right - left)


def draw_view(height: int, width: int, config: AugmentConfig, random: Generator) -> View:
    """The whole image, or in half of the cases a square of it, as upstream crops (`datasets/coco.py`).

    Upstream resizes before it cuts; here the same square is cut from the original, so that pixels are interpolated
    once.
    """
    if not config.crop_sides or not chance(0.5, random):
        return View(0, 0, height, width)
    short = min(height, width)
    scaled_short = config.crop_sides[integer(0, len(config.crop_sides) - 1, random)]
    smallest, largest = (min(side, scaled_short) for side in config.crop_range)
    side = max(1, round(integer(smallest, largest, random) * short / scaled_short))
    return View(integer(0, height - side, random), integer(0, width - side, random), side, side)


def uniform(random: Generator) -> float:
    """Any number from 0 to 1."""
    import torch

    return torch.rand((), generator=random).item()


def chance(probability: float, random: Generator) -> bool:
    """True in this share of the draws."""
    return uniform(random) < probability


def integer(low: int, high: int, random: Generator) -> int:
    """Any integer from low to high, both included, with equal probability."""
    import torch

    return int(torch.randint(low, high + 1, (), generator=random).item())


def around(centre: float, width: float, random: Generator) -> float:
    """Any number from centre - width to centre + width."""
    return centre + width * (2 * uniform(random) - 1)


class Augmentation(NamedTuple):
    """A function that changes an example, the field of its value, and whether it draws from the shared stream."""

    change: Change
    field: Any
    shared: bool


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    description: str, *, most: float, default: float = 0.0, shared: bool = False
) -> Callable[[Change], Change]:
    """Register a function of (example, value, random) under its name, which is its key in `train.augmentation`.

    The example is the crop, resized to the model's input, in 8 bits: change it by `Example.move` and `recolour`.
    description: of the value, for docs/parameters.md. The value runs from 0 (off, the default) to `most`; the function
    is called only if it is above 0, and with a random stream of its own: adding an augmentation, or switching it on,
    changes no draw of the others. shared: not in a new one.
    """

    def register(change: Change) -> Change:
        field = Field(default, ge=0, le=most, description=description)
        AUGMENTATIONS[change.__name__] = Augmentation(change, field, shared)
        return change

    return register


def with_keys(config: type[C]) -> type[C]:
    """A config class with a key for each augmentation, after the keys that it has."""
    # A class decorator around create_model, not its result in a variable: mypy takes no variable for a type.
    keys: dict[str, Any] = {name: (float, augmentation.field) for name, augmentation in AUGMENTATIONS.items()}
    return create_model(config.__name__, __base__=config, __module__=config.__module__, **keys)


def apply_augmentations(example: Example, config: AugmentConfig, random: Generator, stream: Stream) -> Example:
    """Apply the augmentations in order. random: the shared stream, from which the crop was drawn."""
    for name, augmentation in AUGMENTATIONS.items():
        value = getattr(config, name)
        if augmentation.shared:
            example = augmentation.change(example, value, random)
        elif value > 0:
            example = augmentation.change(example, value, stream(name)).visible()
    return example


# These seven and the crop draw from one stream, in this order, and the flips draw even if they are off. It stays so:
# with streams of their own, no earlier training could be repeated with its seed.
@augmentation("probability of a left-right flip", most=1, default=0.5, shared=True)
def horizontal_flip(example: Example, value: float, random: Generator) -> Example:
    """Mirror left and right."""
    return example.move("horizontal_flip") if chance(value, random) else example


@augmentation("probability of an upside-down flip", most=1, shared=True)
def vertical_flip(example: Example, value: float, random: Generator) -> Example:
    """Mirror top and bottom."""
    return example.move("vertical_flip") if chance(value, random) else example


@augmentation("probability of a turn by 90, 180 or 270 degrees", most=1, shared=True)
def quarter_turn(example: Example, value: float, random: Generator) -> Example:
    """Turn by a multiple of 90 degrees."""
    return example.move("rotate", 90.0 * integer(1, 3, random)) if chance(value, random) else example


@augmentation("factor drawn from 1 - b to 1 + b", most=1, shared=True)
def brightness(example: Example, value: float, random: Generator) -> Example:
    """Multiply all pixels by a factor."""
    return example.recolour("adjust_brightness", around(1, value, random)) if value else example


@augmentation("factor drawn from 1 - c to 1 + c", most=1, shared=True)
def contrast(example: Example, value: float, random: Generator) -> Example:
    """Scale the difference from the mean grey."""
    return example.recolour("adjust_contrast", around(1, value, random)) if value else example


@augmentation("factor drawn from 1 - s to 1 + s", most=1, shared=True)
def saturation(example: Example, value: float, random: Generator) -> Example:
    """Scale the difference from grey."""
    return example.recolour("adjust_saturation", around(1, value, random)) if value else example


@augmentation("shift drawn from -h to h, in turns of the colour circle", most=0.5, shared=True)
def hue(example: Example, value: float, random: Generator) -> Example:
    """Turn the circle of colours."""
    return example.recolour("adjust_hue", around(0, value, random)) if value else example


# A new augmentation goes here.


@with_keys
class AugmentConfig(Config):
    """How training images are varied; the defaults are upstream's: crops, and a flip in half of the cases.

    `crop_sides` and `crop_range` are pixels of an image whose short side is first scaled to one of `crop_sides`. The
    crop is resized to the model's input afterwards, so only their ratio counts: upstream's crops keep 0.64 to 1 of the
    short side, whatever the resolution. A `crop_range` that starts lower magnifies more.
    """

    crop_sides: tuple[int, ...] = Field((400, 500, 600), description="short sides, one drawn per crop; none: no crop")
    crop_range: tuple[int, int] = Field((384, 600), description="smallest and largest side of a square crop")

    @model_validator(mode="after")
    def _crops_exist(self) -> Self:
        if min(self.crop_sides, default=1) < 1 or not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ValueError("crop_sides and crop_range count pixels from 1, and crop_range must not fall.")
        return self
