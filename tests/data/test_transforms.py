from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from rfdetr_core.data.augmentation import Example, augment
from rfdetr_core.data.augmentation import decode_masks
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse

PLAIN = AugmentConfig(crop_sides=(), horizontal_flip=0)
EVERYTHING = AugmentConfig(
    horizontal_flip=0.5, vertical_flip=0.5, quarter_turn=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
)


def scene(width: int = 60, height: int = 44, count: int = 5, seed: int = 0) -> tuple[Image.Image, Sample]:
    """Rectangles that are boxes and polygons at once, on whole pixels, each drawn in a shade of its own."""
    random = np.random.default_rng(seed)
    start = random.uniform(0, 1, (count, 2)) * [width - 8, height - 8]
    corners = np.concatenate([start, start + random.uniform(2, 8, (count, 2))], axis=1).round()
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for k, (left, top, right, bottom) in enumerate(corners.astype(int)):
        pixels[top:bottom, left:right] = 40 * (k + 1)
    polygons = tuple([[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in corners.tolist())
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    crowd = np.zeros(count, dtype=np.bool_)
    return Image.fromarray(pixels), Sample("a.png", "", width, height, 1, np.arange(count), boxes, polygons, crowd)


def augmented(
    given: tuple[Image.Image, Sample], side: int, config: AugmentConfig, seed: int, *, masks: bool = True
) -> Example:
    picture, sample = given
    return augment(sample, lambda reduction: picture, side, config, generator(seed), masks=masks)


def example(width: int = 60, height: int = 44) -> Example:
    """The same as a plain example, at its own size."""
    picture, sample = scene(width, height)
    corners = np.concatenate([sample.boxes[:, :2], sample.boxes[:, :2] + sample.boxes[:, 2:]], axis=1)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners).float(), format="XYXY", canvas_size=(height, width))
    masks = tv_tensors.Mask(decode_masks(list(sample.segmentations), height, width))
    return Example(F.to_image(picture), boxes, torch.from_numpy(sample.labels), masks)


def corners(target_boxes: Tensor, side: int) -> Tensor:
    return cxcywh_to_xyxy(target_boxes) * side


@pytest.mark.parametrize("flip", [F.horizontal_flip, F.vertical_flip, lambda x: F.rotate(x, 180.0)])
def test_flips_and_half_turns_are_their_own_inverse(flip: object) -> None:
    once = example().apply(flip)  # type: ignore[arg-type]
    twice = once.apply(flip)  # type: ignore[arg-type]
    assert not torch.equal(once.boxes, example().boxes)
    assert torch.equal(twice.boxes, example().boxes)
    assert torch.equal(twice.image, example().image)
    assert torch.equal(twice.masks, example().masks)


def test_four_quarter_turns_are_none() -> None:
    square = example(48, 48)
    turned = square
    for _ in range(4):
        turned = turned.apply(F.rotate, 90.0)
    assert torch.equal(turned.boxes, square.boxes)
    assert torch.equal(turned.image, square.image)
    assert torch.equal(turned.masks, square.masks)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(9, 90), st.integers(9, 90), st.sampled_from([AugmentConfig(), EVERYTHING]))
def test_boxes_stay_in_the_image_and_instances_in_step(
    seed: int, width: int, height: int, config: AugmentConfig
) -> None:
    target = augmented(scene(width, height, seed=seed), 32, config, seed).target()
    assert target.masks is not None
    assert len(target.labels) == len(target.boxes) == len(target.masks)
    assert target.masks.shape[1:] == (32, 32)
    assert (target.boxes[:, 2:] > 0).all()
    assert (cxcywh_to_xyxy(target.boxes) >= -1e-6).all()
    assert (cxcywh_to_xyxy(target.boxes) <= 1 + 1e-6).all()
    assert target.masks.flatten(1).any(dim=1).all()


@pytest.mark.parametrize("seed", range(40))
def test_masks_and_boxes_agree_after_every_change(seed: int) -> None:
    side = 96
    target = augmented(scene(seed=seed), side, EVERYTHING, seed).target()
    assert target.masks is not None
    for mask, box in zip(target.masks, corners(target.boxes, side), strict=True):
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        around = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (around - box).abs().max() <= 1.0  # the pixels' own width: masks are resized to the nearest


@pytest.mark.parametrize("seed", range(20))
def test_labels_follow_their_pixels(seed: int) -> None:
    """Each rectangle has its own shade: where its mask is, the image is nearest to it."""
    result = augmented(scene(count=3, seed=seed), 96, AugmentConfig(quarter_turn=0.8, vertical_flip=0.5), seed)
    assert result.masks is not None
    overlap = result.masks.sum(dim=0) > 1
    for label, mask in zip(result.labels.tolist(), result.masks, strict=True):
        shades = result.image[0][mask & ~overlap]
        if len(shades):
            assert round(int(shades.median()) / 40) == label + 1


def test_without_changes_an_example_is_only_resized() -> None:
    result = augmented(scene(), 32, PLAIN, 0)
    expected = example().apply(F.resize, [32, 32])
    assert torch.equal(result.image, expected.image)
    torch.testing.assert_close(result.boxes, expected.boxes)


def test_an_image_without_instances_passes_every_change() -> None:
    for seed in range(20):
        target = augmented(scene(count=0), 32, EVERYTHING, seed).target()
        assert target.boxes.shape == (0, 4)
        assert target.masks is not None
        assert target.masks.shape == (0, 32, 32)


def test_the_same_generator_gives_the_same_example_and_the_global_one_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, second, third = (augmented(scene(), 32, EVERYTHING, seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.image, third.image)
    assert torch.equal(state, torch.get_rng_state())


def test_crops_keep_the_part_of_the_short_side_that_upstreams_do() -> None:
    """384 of 600 is the smallest: a box in the very middle is never lost, and never magnified more than 600 / 384."""
    labels, boxes = np.zeros(1, dtype=np.int64), np.array([[140.0, 95, 20, 10]])
    middle = Sample("a.png", "", 300, 200, 1, labels, boxes, (None,), np.zeros(1, dtype=np.bool_))
    heights = []
    for seed in range(300):
        seen = augmented((Image.new("RGB", (300, 200)), middle), 200, AugmentConfig(), seed, masks=False).boxes
        heights += (seen[:, 3] - seen[:, 1]).tolist()
    assert min(heights) >= 10
    assert max(heights) <= 10 * 600 / 384 + 0.1
    assert max(heights) > 15


def test_masks_of_polygons_and_of_both_kinds_of_rle_are_the_same() -> None:
    from pycocotools import mask as rle

    polygon = [[3, 2, 15, 2, 15, 9, 3, 9]]
    compressed = rle.merge(rle.frPyObjects(polygon, 12, 20))
    filled = rle.decode(compressed)
    runs, value, length = [], 0, 0
    for pixel in filled.flatten(order="F").tolist():
        if pixel != value:
            runs, value, length = [*runs, length], pixel, 0
        length += 1
    uncompressed = {"size": [12, 20], "counts": [*runs, length]}
    masks = decode_masks([polygon, compressed, uncompressed], 12, 20)
    assert masks.shape == (3, 12, 20)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    assert int(masks[0].sum()) == 12 * 7


@pytest.mark.parametrize("values", [{"crop_range": [5, 4]}, {"crop_sides": [0]}, {"hue": 0.6}, {"flip": 1}])
def test_impossible_augmentation_is_an_error_that_names_the_key(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        parse(AugmentConfig, values, "params.yaml: train.augmentation")
