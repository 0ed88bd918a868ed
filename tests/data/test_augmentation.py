from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.config.reference import markdown
from rfdetr_core.data import augmentation
from rfdetr_core.data.augmentation import AUGMENTATIONS, AugmentConfig, Change, with_keys
from rfdetr_core.data.dataset import DetectionDataset, Example, Item, SampleKey, augment, decode_masks
from rfdetr_core.data.samples import Sample
from rfdetr_core.data.seeding import generator
from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from tests.data.canonical import samples_of, streams

PLAIN = AugmentConfig(crop_sides=(), horizontal_flip=0)
EVERYTHING = AugmentConfig(
    horizontal_flip=0.5, vertical_flip=0.5, quarter_turn=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
)


def scene(width: int = 60, height: int = 44, count: int = 5, seed: int = 0) -> tuple[Image.Image, Sample]:
    """An image with rectangles on integer pixels, each in its own shade. Each is a box and a polygon."""
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
    image_and_sample: tuple[Image.Image, Sample], side: int, config: AugmentConfig, seed: int, *, masks: bool = True
) -> Example:
    picture, sample = image_and_sample
    return augment(sample, lambda reduction: picture, side, config, streams(seed), masks=masks)


def example(width: int = 60, height: int = 44) -> Example:
    """The scene as an example, without augmentation, at its own size."""
    picture, sample = scene(width, height)
    corners = np.concatenate([sample.boxes[:, :2], sample.boxes[:, :2] + sample.boxes[:, 2:]], axis=1)
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(corners).float(), format="XYXY", canvas_size=(height, width))
    masks = tv_tensors.Mask(decode_masks(list(sample.segmentations), height, width))
    return Example(F.to_image(picture), boxes, torch.from_numpy(sample.labels), masks)


def corners(target_boxes: Tensor, side: int) -> Tensor:
    return cxcywh_to_xyxy(target_boxes) * side


@pytest.mark.parametrize("flip", [("horizontal_flip",), ("vertical_flip",), ("rotate", 180.0)])
def test_flips_and_half_turns_are_their_own_inverse(flip: tuple[Any, ...]) -> None:
    once = example().move(*flip)
    twice = once.move(*flip)
    assert not torch.equal(once.boxes, example().boxes)
    assert torch.equal(twice.boxes, example().boxes)
    assert torch.equal(twice.image, example().image)
    assert torch.equal(twice.masks, example().masks)


def test_four_quarter_turns_are_none() -> None:
    square = example(48, 48)
    turned = square
    for _ in range(4):
        turned = turned.move("rotate", 90.0)
    assert torch.equal(turned.boxes, square.boxes)
    assert torch.equal(turned.image, square.image)
    assert torch.equal(turned.masks, square.masks)


@settings(max_examples=60)
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
        assert (around - box).abs().max() <= 1.0  # one pixel: masks are resized to the nearest pixel


@pytest.mark.parametrize("seed", range(20))
def test_labels_follow_their_pixels(seed: int) -> None:
    """Each rectangle has its own shade. Inside its mask, no other shade is nearer to the image."""
    result = augmented(scene(count=3, seed=seed), 96, AugmentConfig(quarter_turn=0.8, vertical_flip=0.5), seed)
    assert result.masks is not None
    overlap = result.masks.sum(dim=0) > 1
    for label, mask in zip(result.labels.tolist(), result.masks, strict=True):
        shades = result.image[0][mask & ~overlap]
        if len(shades):
            assert round(int(shades.median()) / 40) == label + 1


def test_without_changes_an_example_is_only_resized() -> None:
    result = augmented(scene(), 32, PLAIN, 0)
    expected = example().move("resize", [32, 32])
    assert torch.equal(result.image, expected.image)
    torch.testing.assert_close(result.boxes, expected.boxes)


def test_an_image_without_instances_passes_every_change() -> None:
    for seed in range(20):
        target = augmented(scene(count=0), 32, EVERYTHING, seed).target()
        assert target.boxes.shape == (0, 4)
        assert target.masks is not None
        assert target.masks.shape == (0, 32, 32)


def test_the_same_generator_gives_the_same_example_and_the_global_one_is_not_used() -> None:
    state = torch.get_rng_state()
    first, second, third = (augmented(scene(), 32, EVERYTHING, seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.boxes, second.boxes)
    assert not torch.equal(first.image, third.image)
    assert torch.equal(state, torch.get_rng_state())


def test_crops_keep_the_part_of_the_short_side_that_upstreams_do() -> None:
    """The smallest crop has 384 of 600 pixels. So a box in the centre stays, at most 600 / 384 times as large."""
    labels, boxes = np.zeros(1, dtype=np.int64), np.array([[140.0, 95, 20, 10]])
    middle = Sample("a.png", "", 300, 200, 1, labels, boxes, (None,), np.zeros(1, dtype=np.bool_))
    heights = []
    for seed in range(300):
        cropped = augmented((Image.new("RGB", (300, 200)), middle), 200, AugmentConfig(), seed, masks=False).boxes
        heights += (cropped[:, 3] - cropped[:, 1]).tolist()
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


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_augmentation_changes_images_and_keeps_them_valid(name: str) -> None:
    off = dict.fromkeys(AUGMENTATIONS, 0.0) | {"crop_sides": []}
    most = AUGMENTATIONS[name].field.metadata[1].le
    plain, changed = (parse(AugmentConfig, values, "augmentation") for values in (off, off | {name: most}))
    noise = np.random.default_rng(0).integers(0, 256, (44, 60, 3), dtype=np.uint8)
    image_and_sample, differing = (Image.fromarray(noise), scene()[1]), 0
    for seed in range(8):
        before, after, again = (augmented(image_and_sample, 32, config, seed) for config in (plain, changed, changed))
        assert (after.image.shape, after.image.dtype) == (before.image.shape, torch.uint8)
        assert torch.equal(after.image, again.image)
        assert bool(((after.boxes >= 0) & (after.boxes <= 32)).all())
        differing += not torch.equal(before.image, after.image)
    assert differing >= 4


@pytest.mark.parametrize("values", [{"crop_range": [5, 4]}, {"crop_sides": [0]}, {"hue": 0.6}, {"flip": 1}])
def test_impossible_augmentation_is_an_error_that_names_the_key(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        parse(AugmentConfig, values, "params.yaml: train.augmentation")


@contextmanager
def added(*changes: Change, first: bool = False) -> Iterator[type[AugmentConfig]]:
    """Register these functions as augmentations, after the others or before them, while the block runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "AUGMENTATIONS", {} if first else dict(AUGMENTATIONS))
        for change in changes:
            augmentation.augmentation("trial", most=1)(change)
        patch.setattr(augmentation, "AUGMENTATIONS", augmentation.AUGMENTATIONS | AUGMENTATIONS)
        yield with_keys(AugmentConfig)


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that returns the item of a sample key."""
    root, samples = samples_of(tmp_path_factory.mktemp("items"), 4)

    def item(config: AugmentConfig, seed: int, draw: SampleKey, *, masks: bool = True) -> Item:
        return DetectionDataset(samples, root, 32, masks, config, seed)[draw]

    return item


def same(first: Item, other: Item) -> bool:
    tensors = ((item.image, item.target.labels, item.target.boxes, item.target.masks) for item in (first, other))
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))  # type: ignore[arg-type]


VALUES = EVERYTHING.model_dump()
draws = st.builds(SampleKey, st.integers(0, 99), st.integers(0, 3), st.integers(0, 3))
seeds = st.integers(0, 10**6)
few_examples = settings(max_examples=40)


@few_examples
@given(seeds, draws, st.booleans())
def test_an_augmentation_that_is_off_is_not_called_and_changes_nothing(
    read: Any, seed: int, draw: SampleKey, first: bool
) -> None:
    def noise(example: Example, value: float, random: torch.Generator) -> Example:
        pytest.fail("it is off")

    before = read(EVERYTHING, seed, draw)
    with added(noise, first=first) as config:
        assert config(**VALUES).noise == 0
        assert same(read(config(**VALUES), seed, draw), before)


@few_examples
@given(seeds, draws, st.booleans())
def test_an_augmentation_that_is_on_changes_no_draw_of_the_others(
    read: Any, seed: int, draw: SampleKey, first: bool
) -> None:
    """Two augmentations draw a hundred numbers and change nothing. The last one makes a negative."""
    called = []

    def draw_much(example: Example, value: float, random: torch.Generator) -> Example:
        torch.rand(100, generator=random)
        called.append(value)
        return example

    def draw_more(example: Example, value: float, random: torch.Generator) -> Example:
        return draw_much(example, value, random)

    def negative(example: Example, value: float, random: torch.Generator) -> Example:
        return example.recolour("invert")

    before = read(EVERYTHING, seed, draw)
    with added(draw_much, draw_more, first=first) as config:
        assert same(read(config(**VALUES, draw_much=1, draw_more=0.5), seed, draw), before)
    assert called == [1, 0.5]
    with added(draw_much, negative) as config:
        changed = read(config(**VALUES, draw_much=1, negative=1), seed, draw)
    assert torch.equal(255 - changed.image, before.image)
    assert torch.equal(changed.target.boxes, before.target.boxes)


def test_a_stream_depends_only_on_name_seed_and_sample_key(read: Any) -> None:
    drawn: dict[str, list[float]] = {}

    def one_number(example: Example, value: float, random: torch.Generator) -> Example:
        drawn["one_number"] = torch.rand(3, generator=random).tolist()
        return example

    def another_number(example: Example, value: float, random: torch.Generator) -> Example:
        drawn["another_number"] = torch.rand(3, generator=random).tolist()
        return example

    def stream(seed: int, draw: SampleKey, *, masks: bool = True, **values: Any) -> list[float]:
        read(config(**{"one_number": 1} | values), seed, draw, masks=masks)
        return drawn["one_number"]

    with added(one_number, another_number) as config:
        usual = stream(3, SampleKey(1, 2, 1))
        torch.manual_seed(1)
        same_place = [VALUES, {"one_number": 0.1}, {"another_number": 1}, {"crop_sides": ()}, {"masks": False}]
        assert [stream(3, SampleKey(1, 2, 1), **values) for values in same_place] == [usual] * len(same_place)
        elsewhere = [(4, SampleKey(1, 2, 1)), (3, SampleKey(2, 2, 1)), (3, SampleKey(1, 3, 1)), (3, SampleKey(1, 2, 0))]
        stream(3, SampleKey(1, 2, 1), another_number=1)
        others = [drawn["another_number"], *(stream(*place) for place in elsewhere)]
    assert not any(other == usual for other in others)
    with added(another_number, one_number, first=True) as config:
        assert stream(3, SampleKey(1, 2, 1), another_number=1) == usual


@few_examples
@given(seeds, draws)
def test_the_first_augmentations_share_a_stream_and_their_order_in_it(read: Any, seed: int, draw: SampleKey) -> None:
    """They draw as in the releases that had only one stream, so every seed gives the same images as before."""
    values = {"horizontal_flip": 0.5, "vertical_flip": 0.0, "quarter_turn": 0.5, "contrast": 0.4, "hue": 0.1}
    item = read(AugmentConfig(crop_sides=(), **values), seed, draw)  # type: ignore[arg-type]
    random = generator("augment", seed, *draw)

    def number() -> float:
        return torch.rand((), generator=random).item()

    image = read(PLAIN, seed, draw).image
    image = F.horizontal_flip(image) if number() < 0.5 else image
    number()
    if number() < 0.5:
        image = F.rotate(image, 90.0 * torch.randint(1, 4, (), generator=random).item())
    image = F.adjust_contrast(image, 1 + 0.4 * (2 * number() - 1))
    assert torch.equal(item.image, F.adjust_hue(image, 0.1 * (2 * number() - 1)))


def test_instances_that_an_augmentation_hides_are_dropped(read: Any) -> None:
    def upper_half(example: Example, value: float, random: torch.Generator) -> Example:
        return example.move("crop", 0, 0, 16, 32)

    with added(upper_half) as config:
        items = [read(config(**VALUES, upper_half=1), seed, SampleKey(0, 3)) for seed in range(20)]
    before = [read(EVERYTHING, seed, SampleKey(0, 3)) for seed in range(20)]
    assert sum(len(item.target.labels) for item in items) < sum(len(item.target.labels) for item in before)
    assert all((item.target.boxes[:, 2:] > 0).all() and item.target.masks.any(dim=(1, 2)).all() for item in items)


def test_every_augmentation_has_a_documented_key_after_those_of_the_crop() -> None:
    assert list(AugmentConfig().model_dump()) == ["crop_sides", "crop_range", *AUGMENTATIONS]
    page = markdown()
    for name, registered in AUGMENTATIONS.items():
        most, meaning = registered.field.metadata[1].le, registered.field.description
        assert meaning
        assert f"| augmentation.{name} | number, from 0, to {most} | {registered.field.default} | {meaning} |\n" in page
        for bad_value in (-0.1, most + 0.1):
            with pytest.raises(UserError, match=name):
                parse(AugmentConfig, {name: bad_value}, "params.yaml: train.augmentation")


def test_the_settings_are_a_class_that_can_be_sent_to_processes() -> None:
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING
    assert type(EVERYTHING) is AugmentConfig
