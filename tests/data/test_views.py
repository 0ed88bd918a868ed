from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from rfdetr_core.base import images
from rfdetr_core.data.augmentation import AugmentConfig, View, draw_view
from rfdetr_core.data.dataset import Example, augment, crop_boxes, crop_image, crop_masks, decode_masks
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from tests.data.canonical import streams

sides = st.integers(1, 300)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs with a few hard edges, like a photograph."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    picture.paste((250, 20, 20), (width // 3, height // 4, width // 2, height // 2))
    return picture


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    """A JPEG that shows `picture` after it is turned by its EXIF orientation."""
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = picture if orientation == 1 else picture.transpose(back[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = io.BytesIO()
    stored.save(data, "JPEG", quality=92, exif=exif)
    return data.getvalue()


def sample_of(width: int, height: int, boxes: npt.NDArray[np.float64]) -> Sample:
    count = len(boxes)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    polygons = tuple([[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners.tolist())
    return Sample("a.jpg", "", width, height, 1, np.arange(count), boxes, polygons, np.zeros(count, dtype=np.bool_))


@given(sides, sides, sides, sides, st.integers(1, 64))
def test_a_reduced_view_has_pixels_enough_and_holds_the_view(
    top: int, left: int, height: int, width: int, side: int
) -> None:
    view = View(top, left, height, width)
    factor = view.reduction(side)
    wide = view.widened(factor)
    assert factor == 1 or min(wide.height, wide.width) // factor >= side
    assert not any(value % factor for value in wide)
    assert 0 <= top - wide.top < factor
    assert 0 <= wide.top + wide.height - (top + height) < factor
    assert factor == 8 or min(height, width) < 2 * factor * side  # the next coarser scale has too few


@pytest.mark.parametrize("size", [(1000, 760), (1003, 765), (765, 1003)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_training_on_a_reduced_jpeg_sees_nearly_the_same_as_on_the_full_one(
    size: tuple[int, int], orientation: int
) -> None:
    """Boxes differ by less than a pixel of the model's input. Pixels of the same view differ by less than 3 grey levels
    of 255 on average.
    """
    picture, side = smooth(*size), 96
    data = jpeg(picture, orientation)
    boxes = np.array([[100.0, 200, 300, 250], [0, 0, 60, 70], [size[0] - 90.0, size[1] - 90.0, 90, 90]])
    sample, factors = sample_of(*size, boxes), []

    def reduced(factor: int) -> Image.Image:
        factors.append(factor)
        return images.decode(data, "a.jpg", factor)

    def see(decode: object, seed: int) -> Example:
        return augment(sample, decode, side, AugmentConfig(), streams(seed), masks=False)  # type: ignore[arg-type]

    for seed in range(12):
        full, reduced_jpeg = see(lambda factor: images.decode(data, "a.jpg"), seed), see(reduced, seed)
        before, after = (
            dict(zip(example.labels.tolist(), example.boxes, strict=True)) for example in (full, reduced_jpeg)
        )
        assert all((before[label] - after[label]).abs().max() < 1 for label in before)
        # The widened view may show the edge of one more object.
        assert all((box[2:] - box[:2]).min() < 1 for label, box in after.items() if label not in before)
        factor = round(size[0] / images.decode(data, "a.jpg", factors[-1]).width)
        view = draw_view(size[1], size[0], AugmentConfig(), generator(seed)).widened(factor)
        fine = crop_image(view, images.decode(data, "a.jpg"), 1, side)
        coarse = crop_image(view, images.decode(data, "a.jpg", factor), factor, side)
        assert (fine.int() - coarse.int()).abs().float().mean() < 3
    assert max(factors) >= 4


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(320, 256), (331, 253)])
def test_a_pixel_of_a_reduced_jpeg_is_the_mean_of_its_square(
    size: tuple[int, int], orientation: int, factor: int
) -> None:
    data = jpeg(smooth(*size), orientation)
    full, reduced = images.decode(data, "a"), images.decode(data, "a", factor)
    width, height = (length // factor for length in size)
    if reduced.size == full.size:
        assert orientation != 1
        assert size[0] % factor or size[1] % factor
        return
    assert reduced.size == tuple(-(-length // factor) for length in size)
    pixels = np.asarray(full, dtype=float)[: height * factor, : width * factor]
    means = pixels.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    difference = np.abs(means - np.asarray(reduced, dtype=float)[:height, :width])
    assert difference.mean() < 2  # a shift by half a pixel makes it 3 to 8


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_never_reduced(kind: str) -> None:
    data = io.BytesIO()
    smooth(300, 200).save(data, kind)
    assert images.decode(data.getvalue(), "a", 4).size == (300, 200)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 10**6))
def test_polygons_are_filled_in_a_view_as_they_are_in_the_image(top: int, left: int, seed: int) -> None:
    """Without magnification. Pixels of the edge may differ, because pycocotools treats rows and columns differently."""
    points = np.random.default_rng(seed).uniform(-5, 45, (5, 2))
    polygon = [points.round(1).ravel().tolist()]
    view = View(top, left, 20, 20)
    expected = decode_masks([polygon], 40, 40)[0, top : top + 20, left : left + 20]
    mask = crop_masks(view, [polygon], 40, 40, 20)[0]
    pair = np.stack([expected.numpy(), mask.numpy()])
    around = np.stack([pair[:, 1 + y : 19 + y, 1 + x : 19 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    uniform = (around == around[:1]).all(axis=(0, 1))  # no edge of the polygon is near, in both masks
    assert (pair[0] == pair[1])[1:-1, 1:-1][uniform].all()
    assert (pair[0] == pair[1]).mean() > 0.75


@given(st.integers(0, 10**6))
def test_run_lengths_are_cut_and_scaled_to_the_nearest_pixel(seed: int) -> None:
    from pycocotools import mask as rle

    random = np.random.default_rng(seed)
    filled = random.random((24, 32)) < 0.5
    coded = rle.encode(np.asfortranarray(filled.astype(np.uint8)))
    same = crop_masks(View(4, 6, 16, 16), [coded], 24, 32, 16)[0]
    assert np.array_equal(same.numpy(), filled[4:20, 6:22])
    doubled = crop_masks(View(4, 6, 16, 16), [coded], 24, 32, 32)[0]
    assert np.array_equal(doubled.numpy(), filled[4:20, 6:22].repeat(2, axis=0).repeat(2, axis=1))


def test_boxes_are_moved_scaled_and_clipped() -> None:
    corners = np.array([[10.0, 20, 30, 40], [0, 0, 100, 100], [60, 60, 70, 70]])
    boxes = crop_boxes(View(10, 10, 40, 20), corners, 80)
    assert boxes.tolist() == [[0, 20, 80, 60], [0, 0, 80, 80], [80, 80, 80, 80]]


def test_two_thousand_masks_of_an_image_are_filled_at_the_size_of_the_input() -> None:
    random = np.random.default_rng(0)
    boxes = np.concatenate([random.uniform(0, 1880, (2000, 2)), random.uniform(8, 40, (2000, 2))], axis=1)
    sample = sample_of(1920, 1920, boxes)
    example = augment(sample, lambda _: Image.new("RGB", (1920, 1920)), 64, AugmentConfig(), streams(3), masks=True)
    assert example.masks is not None
    assert example.masks.shape[1:] == (64, 64)
    assert len(example.masks) == len(example.boxes) == len(example.labels) > 500
