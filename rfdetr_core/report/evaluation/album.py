"""Small pictures of a split: each image is read and decoded once, whatever is cut from it."""

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
_WHOLE, _CROP = 224, 160  # pixels: the longer side of a whole image and of a crop
_AROUND, _LEAST = 2.2, 40.0  # what a crop shows: times the longer side of its box, and at least so many pixels
_STRIP = 2  # pixels of a small picture: the height of the strips that a mask is drawn in
QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class Outline:
    """What is drawn over a picture: a box in pixels of the image, the group, style and text of its Shape, and a mask
    as RLE, if there is one."""

    box: Box
    group: int
    style: str = ""
    text: str = ""
    mask: Any = None


@dataclass(frozen=True)
class _View:
    box: Box | None
    outlines: Sequence[Outline]


class Album:
    """Collects what shall be seen of the images of a split; `develop` then makes all pictures."""

    def __init__(self, root: Path, samples: Sequence[Sample]) -> None:
        self._root, self._samples = root, samples
        self._views: dict[int, list[tuple[int, _View]]] = defaultdict(list)
        self._count = 0

    def whole(self, image: int, outlines: Sequence[Outline]) -> int:
        """The number of a picture of a whole image; image: its place among the samples."""
        return self._add(image, _View(None, outlines))

    def crop(self, image: int, box: Box, outlines: Sequence[Outline]) -> int:
        """The number of a picture of a box and its surroundings."""
        return self._add(image, _View(box, outlines))

    def _add(self, image: int, view: _View) -> int:
        self._views[image].append((self._count, view))
        self._count += 1
        return self._count - 1

    def develop(self) -> tuple[list[Picture], Floats]:
        """The pictures by number, and the brightness of each image: the mean of its luma, 0 to 255.

        Raises:
            UserError: an image is missing or not the one of the manifest.
        """
        pictures: dict[int, Picture] = {}
        brightness = np.zeros(len(self._samples))
        for number, sample in enumerate(self._samples):
            views = self._views.get(number, [])
            cropped = any(view.box is not None for _, view in views)
            # A JPEG at a part of its size comes quickly, and is enough unless something is cut from it. Of a narrow one
            # nothing would be left.
            longer, shorter = max(sample.width, sample.height), min(sample.width, sample.height)
            fits = (k for k in (8, 4, 2, 1) if k == 1 or (longer / k >= _WHOLE and shorter >= k))
            reduction = 1 if cropped else next(fits)
            data = images.read_verified(self._root / sample.path, sample.sha256)
            picture = images.decode(data, sample.path, reduction, max_pixels=None)
            brightness[number] = ImageStat.Stat(picture.convert("L")).mean[0]
            for place, view in views:
                pictures[place] = _made(picture, sample, view)
        return [pictures[place] for place in range(self._count)], brightness


def _made(picture: Image.Image, sample: Sample, view: _View) -> Picture:
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
    """Left, top, right and bottom of what is shown: a square around the box as far as the image goes."""
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
    """The path of a mask in strips of a few pixels of the small picture."""
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
