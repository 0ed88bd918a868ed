"""Small pictures of a split: they are requested first, then each image is decoded once for all its pictures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hotcoco import mask as masks
from PIL import Image, ImageStat

from rfdetr_core.base import images
from rfdetr_core.data.samples import Sample
from rfdetr_core.metrics.coco import Floats
from rfdetr_core.report.gallery import Picture, Shape, as_jpeg

Box = tuple[float, float, float, float]  # left, top, width, height, in pixels of the image
_WHOLE, _CROP = 224, 160  # the longer side of the picture of a whole image and of a crop, in pixels
_AROUND = 2.2  # the side of the square that a crop shows, as a multiple of the longer side of its box
_LEAST = 40.0  # the shortest side of this square, in pixels of the image
_STRIP = 2  # the height of the strips that a mask is drawn in, in pixels of the small picture
QUALITY = 78  # JPEG quality, 1 to 95


@dataclass(frozen=True)
class Outline:
    """A shape over a picture.

    box: in pixels of the image. group, style, text: see `Shape`. mask: as RLE; None: only the box is drawn.
    """

    box: Box
    group: int
    style: str = ""
    text: str = ""
    mask: Any = None


@dataclass(frozen=True)
class _View:
    box: Box | None
    outlines: Sequence[Outline]


class PictureRequests:
    """Collects requests for pictures of the images of a split. `render` then makes all pictures.

    root: the folder of the images. samples: the images. Requests name them by index.
    """

    def __init__(self, root: Path, samples: Sequence[Sample]) -> None:
        self._root, self._samples = root, samples
        self._views: dict[int, list[tuple[int, _View]]] = defaultdict(list)
        self._count = 0

    def request_image(self, image: int, outlines: Sequence[Outline]) -> int:
        """Request a picture of a whole image. Returns the index of the picture in the result of `render`.

        image: the index of the image in the samples. outlines: drawn over it.
        """
        return self._add(image, _View(None, outlines))

    def request_crop(self, image: int, box: Box, outlines: Sequence[Outline]) -> int:
        """Request a picture of a box and its surroundings. Returns its index in the result of `render`.

        Args:
            image: The index of the image in the samples.
            box: In pixels of the image.
            outlines: Drawn over the picture.
        """
        return self._add(image, _View(box, outlines))

    def _add(self, image: int, view: _View) -> int:
        self._views[image].append((self._count, view))
        self._count += 1
        return self._count - 1

    def render(self) -> tuple[list[Picture], Floats]:
        """Make all pictures, and measure the brightness of each image: the mean of its luma, 0 to 255.

        Raises:
            UserError: an image is missing or differs from the manifest.
        """
        pictures: dict[int, Picture] = {}
        brightness = np.zeros(len(self._samples))
        for number, sample in enumerate(self._samples):
            views = self._views.get(number, [])
            cropped = any(view.box is not None for _, view in views)
            # Decoding a JPEG at reduced size is faster, and enough if there are no crops. A narrow image is reduced
            # less, so that its shorter side keeps at least one pixel.
            longer, shorter = max(sample.width, sample.height), min(sample.width, sample.height)
            fits = (k for k in (8, 4, 2, 1) if k == 1 or (longer / k >= _WHOLE and shorter >= k))
            reduction = 1 if cropped else next(fits)
            data = images.read_verified(self._root / sample.path, sample.sha256)
            picture = images.decode(data, sample.path, reduction, max_pixels=None)
            brightness[number] = ImageStat.Stat(picture.convert("L")).mean[0]
            for index, view in views:
                pictures[index] = _draw_view(picture, sample, view)
        return [pictures[index] for index in range(self._count)], brightness


def _draw_view(picture: Image.Image, sample: Sample, view: _View) -> Picture:
    left, top, right, bottom = _region(view.box, sample.width, sample.height)
    most = _CROP if view.box else _WHOLE
    scale = most / max(right - left, bottom - top)
    if not view.box:
        scale = min(1.0, scale)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    ratio = picture.width / sample.width, picture.height / sample.height
    source = left * ratio[0], top * ratio[1], right * ratio[0], bottom * ratio[1]
    small = as_jpeg(picture.resize(size, Image.Resampling.LANCZOS, box=source, reducing_gap=2.0), QUALITY)
    shapes = [_shape(outline, (left, top), (right, bottom), size) for outline in view.outlines]
    return small._replace(shapes=shapes)


def _region(box: Box | None, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the visible region: a square around the box, cut at the edges of the image."""
    if box is None:
        return 0, 0, width, height
    half = max(_AROUND * max(box[2], box[3]), _LEAST) / 2
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    (left, right), (top, bottom) = (_span(middle[k], half, side) for k, side in enumerate((width, height)))
    return left, top, right, bottom


def _span(middle: float, half: float, side: int) -> tuple[int, int]:
    start = int(min(max(0.0, middle - half), max(0.0, side - 2 * half)))
    return start, max(start + 1, min(side, int(np.ceil(start + 2 * half))))


def _shape(outline: Outline, start: tuple[int, int], end: tuple[int, int], size: tuple[int, int]) -> Shape:
    scale = [size[k] / (end[k] - start[k]) for k in (0, 1)]
    x, y = ((outline.box[k] - start[k]) * scale[k] for k in (0, 1))
    x, y, width, height = (round(value, 1) for value in (x, y, outline.box[2] * scale[0], outline.box[3] * scale[1]))
    return Shape(
        outline.group, x, y, width, height, outline.style, _strips(outline.mask, start, end, size), outline.text
    )


def _strips(mask: Any, start: tuple[int, int], end: tuple[int, int], size: tuple[int, int]) -> str:
    """The SVG path of a mask: horizontal strips of _STRIP pixels of the small picture."""
    if mask is None:
        return ""
    part: npt.NDArray[np.uint8] = np.asarray(masks.decode(mask))[start[1] : end[1], start[0] : end[0]]
    rows = max(1, size[1] // _STRIP)
    small = np.asarray(Image.fromarray(part * 255).resize((size[0], rows), Image.Resampling.NEAREST)) > 127
    edges = np.diff(np.pad(small, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, stops = (np.argwhere(edges == sign).tolist() for sign in (1, -1))
    high = size[1] / rows
    return "".join(
        f"M{left} {row * high:.0f}h{right - left}v{high:.0f}h{left - right}z"
        for (row, left), (_, right) in zip(starts, stops, strict=True)
    )
