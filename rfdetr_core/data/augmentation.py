"""Training augmentation: the random crop, and one function for each other change of an image.

To add an augmentation, write a function with `@augmentation`. The function gives the key in `train.augmentation`, the
line in docs/parameters.md, and the call. Torch is imported inside functions, so that `check` can read the settings
without it.
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
# Returns a random generator ("stream"). stream(name) is the generator of this augmentation, stream() the shared one.
Stream = Callable[..., "Generator"]
C = TypeVar("C", bound=Config)
_JPEG_SCALES = (8, 4, 2)


class View(NamedTuple):
    """A rectangle of an upright image, in pixels of its full size."""

    top: int
    left: int
    height: int
    width: int

    def reduction(self, side: int) -> int:
        """The largest factor by which a JPEG may be reduced, so that the view still has side x side pixels."""
        return next((factor for factor in _JPEG_SCALES if min(self.height, self.width) >= factor * side), 1)

    def widened(self, factor: int) -> View:
        """The smallest view that contains this one and whose edges are multiples of `factor`.

        So if the image is reduced by `factor`, the view starts and ends at whole pixels.
        """
        top, left = self.top // factor * factor, self.left // factor * factor
        bottom, right = (-(-end // factor) * factor for end in (self.top + self.height, self.left + self.width))
        return View(top, left, bottom - top, right - left)


def draw_view(height: int, width: int, config: AugmentConfig, random: Generator) -> View:
    """Draw the part of an image that is used: in half of the cases the complete image, else a square of it.

    The distribution is upstream's (`datasets/coco.py`). Upstream resizes the image and then crops it. Here the same
    square is cropped from the original, so that pixels are interpolated only once.

    Args:
        height: The height of the image, in pixels.
        width: The width of the image, in pixels.
        config: Its crop_sides and crop_range are used.
        random: The shared stream.
    """
    if not config.crop_sides or not chance(0.5, random):
        return View(0, 0, height, width)
    short = min(height, width)
    scaled_short = config.crop_sides[integer(0, len(config.crop_sides) - 1, random)]
    smallest, largest = (min(side, scaled_short) for side in config.crop_range)
    side = max(1, round(integer(smallest, largest, random) * short / scaled_short))
    return View(integer(0, height - side, random), integer(0, width - side, random), side, side)


def uniform(random: Generator) -> float:
    """Draw a number from 0 to 1."""
    import torch

    return torch.rand((), generator=random).item()


def chance(probability: float, random: Generator) -> bool:
    """Return True with this probability."""
    return uniform(random) < probability


def integer(low: int, high: int, random: Generator) -> int:
    """Draw an integer.

    Args:
        low: The smallest possible integer.
        high: The largest possible integer.
        random: The stream.
    """
    import torch

    return int(torch.randint(low, high + 1, (), generator=random).item())


def around(centre: float, width: float, random: Generator) -> float:
    """Draw a number uniformly from centre - width to centre + width.

    Args:
        centre: The mean.
        width: The largest distance from the mean.
        random: The stream.
    """
    return centre + width * (2 * uniform(random) - 1)


class Augmentation(NamedTuple):
    """A registered augmentation: its function, the config field of its value, and whether it uses the shared stream."""

    change: Change
    field: Any
    shared: bool


AUGMENTATIONS: dict[str, Augmentation] = {}


def augmentation(
    description: str, *, most: float, default: float = 0.0, shared: bool = False
) -> Callable[[Change], Change]:
    """Register a function of (example, value, random). Its name becomes its key in `train.augmentation`.

    The arguments of the function:
    example: the crop, resized to the model's input, in 8 bits. The function changes it with `Example.move` and
        `Example.recolour`.
    value: the value of the key in `train.augmentation`. With 0, the function is not called.
    random: the random generator of this augmentation. So a new augmentation does not change the draws of others.

    Args:
        description: The meaning of the value, for docs/parameters.md.
        most: The largest value.
        default: The default value.
        shared: Draw from the shared stream. Only for the old augmentations below; do not set it in a new one.
    """

    def register(change: Change) -> Change:
        field = Field(default, ge=0, le=most, description=description)
        AUGMENTATIONS[change.__name__] = Augmentation(change, field, shared)
        return change

    return register


def with_keys(config: type[C]) -> type[C]:
    """Add a key for each registered augmentation to a config class, after its own keys."""
    # A class decorator, not a variable with the result of create_model(): mypy does not accept a variable as a type.
    keys: dict[str, Any] = {name: (float, augmentation.field) for name, augmentation in AUGMENTATIONS.items()}
    return create_model(config.__name__, __base__=config, __module__=config.__module__, **keys)


def apply_augmentations(example: Example, config: AugmentConfig, random: Generator, stream: Stream) -> Example:
    """Apply the augmentations in the order of their registration.

    Args:
        example: The crop, resized to the model's input.
        config: The values of the augmentations.
        random: The shared stream, from which the crop was drawn.
        stream: Returns the stream of an augmentation by its name.
    """
    for name, augmentation in AUGMENTATIONS.items():
        value = getattr(config, name)
        if augmentation.shared:
            example = augmentation.change(example, value, random)
        elif value > 0:
            example = augmentation.change(example, value, stream(name)).visible()
    return example


# These seven functions and the crop draw from the shared stream, in this order. They are also called with the value 0,
# and a flip or turn draws a random number even then. Keep this order and these draws: otherwise a seed does not repeat
# an earlier training. For the arguments see `augmentation`.
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


@augmentation("b: pixels are multiplied by a random factor from 1 - b to 1 + b", most=1, shared=True)
def brightness(example: Example, value: float, random: Generator) -> Example:
    """Multiply all pixels by a factor."""
    return example.recolour("adjust_brightness", around(1, value, random)) if value else example


@augmentation("c: contrast is multiplied by a random factor from 1 - c to 1 + c", most=1, shared=True)
def contrast(example: Example, value: float, random: Generator) -> Example:
    """Scale the difference from the mean grey."""
    return example.recolour("adjust_contrast", around(1, value, random)) if value else example


@augmentation("s: saturation is multiplied by a random factor from 1 - s to 1 + s", most=1, shared=True)
def saturation(example: Example, value: float, random: Generator) -> Example:
    """Scale the difference from grey."""
    return example.recolour("adjust_saturation", around(1, value, random)) if value else example


@augmentation("h: the hue is shifted by a random part of the colour circle, from -h to h", most=0.5, shared=True)
def hue(example: Example, value: float, random: Generator) -> Example:
    """Turn the circle of colours."""
    return example.recolour("adjust_hue", around(0, value, random)) if value else example


# A new augmentation goes here.


@with_keys
class AugmentConfig(Config):
    """The augmentation of training images. The defaults are upstream's: crops, and a flip in half of the cases.

    `crop_sides` and `crop_range` are in pixels of an image whose short side was scaled to one of `crop_sides`. The crop
    is resized to the model's input afterwards, so only the ratio of `crop_range` to `crop_sides` counts. Upstream's
    values keep 0.64 to 1 of the short side, at every resolution. A smaller minimum of `crop_range` gives smaller crops,
    in which objects are larger.
    """

    crop_sides: tuple[int, ...] = Field(
        (400, 500, 600),
        description="before a crop, the short side is scaled to one of these, at random; []: no crop",
    )
    crop_range: tuple[int, int] = Field(
        (384, 600), description="smallest and largest side of the square crop, in pixels of the scaled image"
    )

    @model_validator(mode="after")
    def _crops_exist(self) -> Self:
        if min(self.crop_sides, default=1) < 1 or not 1 <= self.crop_range[0] <= self.crop_range[1]:
            raise ValueError("crop_sides and crop_range must be 1 pixel or more, and crop_range must not decrease.")
        return self
