from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_codes

from rfdetr_core.data.augmentation import AugmentConfig, View
from rfdetr_core.data.batching import multi_scale_sizes
from rfdetr_core.data.dataset import augment, crop_masks, decode_masks
from rfdetr_core.data.preprocess import normalise, preprocess
from rfdetr_core.data.samples import Sample
from rfdetr_core.metrics.coco import THRESHOLDS, score
from rfdetr_core.model.config import VARIANTS
from tests.data.canonical import streams
from tests.metrics.test_coco import ground_truth, guesses

coco = pytest.importorskip("rfdetr.datasets.coco", reason="parity needs upstream: pip install rfdetr==1.11.2")


def pipeline(split: str, resolution: int) -> coco.Compose:
    return coco._build_torchvision_pipeline(
        split, resolution, [resolution], square=True, aug_config=None, gpu_postprocess=False, keypoint_flip_pairs=None
    )


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def sample_of(width: int, height: int, boxes: list[list[float]]) -> Sample:
    """An image with boxes (left, top, width, height) of class 0."""
    count = len(boxes)
    labels, crowd = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.bool_)
    return Sample("a.png", "", width, height, 1, labels, np.array(boxes).reshape(-1, 4), (None,) * count, crowd)


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("expanded", [True, False])
def test_multi_scale_sizes_are_upstreams(name: str, expanded: bool) -> None:
    numbers = VARIANTS[name]
    expected = coco.compute_multi_scale_scales(numbers.resolution, expanded, numbers.patch_size, numbers.windows)
    assert multi_scale_sizes(numbers.resolution, numbers.patch_size, numbers.windows, expanded) == expected


@pytest.mark.parametrize("size", [(64, 64), (50, 30), (300, 200)])
def test_preprocessing_is_that_of_upstreams_validation(size: tuple[int, int]) -> None:
    expected, _ = pipeline("val", 64)(noise(*size), {})
    torch.testing.assert_close(preprocess(noise(*size), 64), expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_augmentation_draws_crops_and_flips_as_upstream_does() -> None:
    """A small box in the middle of a picture is augmented 400 times. Its distribution is upstream's."""
    picture, box, count = noise(60, 48), torch.tensor([[28.0, 22, 34, 25]]), 400
    sample = sample_of(60, 48, [[28.0, 22, 6, 3]])
    transform, ours, theirs = pipeline("train", 32), [], []
    for seed in range(count):
        ours.append(augment(sample, lambda _: picture, 32, AugmentConfig(), streams(seed), masks=False).target().boxes)
        torch.manual_seed(seed)
        target = {"boxes": box.clone(), "labels": torch.zeros(1, dtype=torch.int64), "size": torch.tensor([48, 60])}
        theirs.append(transform(picture, target)[1]["boxes"])
    for value in range(4):
        first, second = (torch.cat(boxes)[:, value].double().sort().values for boxes in (ours, theirs))
        points = torch.cat([first, second]).sort().values
        # Positions agree to half a pixel of the original, because upstream's crops start at whole pixels.
        below = [torch.searchsorted(first, points + step) / len(first) for step in (-0.012, 0.012)]
        reference = torch.searchsorted(second, points) / len(second)
        assert (below[0] - reference).max() < 0.1  # Kolmogorov-Smirnov test: by chance, 5 % of cases exceed 0.096
        assert (reference - below[1]).max() < 0.1


@pytest.mark.parametrize("side", [24, 40, 60])
@pytest.mark.parametrize("coded", ["polygon", "run lengths"])
@pytest.mark.filterwarnings("ignore")
def test_masks_are_upstreams_except_for_pixels_at_their_edges(side: int, coded: str) -> None:
    """Upstream fills polygons at the image's size and takes the nearest pixels. Ours fills them at the input's size."""
    width, height = 90, 60
    angles = np.linspace(0, 2 * np.pi, 9)[:-1]
    for seed in range(20):
        random = np.random.default_rng(seed)
        centre, radius = random.uniform((30, 25), (60, 35)), random.uniform(12, 22)
        polygon = (centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).ravel().tolist()
        whole = decode_masks([[polygon]], height, width)
        shape = [polygon] if coded == "polygon" else mask_codes.encode(np.asfortranarray(whole[0].byte().numpy()))
        target = {"boxes": torch.tensor([[0.0, 0, width, height]]), "labels": torch.zeros(1), "masks": whole}
        target |= {"size": torch.tensor([height, width]), "area": torch.ones(1)}
        theirs = coco.Resize((side, side))(noise(width, height), target)[1]["masks"][0]
        ours = crop_masks(View(0, 0, height, width), [shape], height, width, side)[0]
        near = [torch.nn.functional.max_pool2d(mask[None].float(), 3, 1, 1)[0] > 0 for mask in (theirs, ~theirs)]
        assert not (ours ^ theirs)[~(near[0] & near[1])].any()


def test_training_without_augmentation_sees_what_validation_sees() -> None:
    """The integer kernels of torch and Pillow differ by one grey level at most."""
    config = AugmentConfig(crop_sides=(), horizontal_flip=0)
    unchanged = augment(sample_of(60, 48, []), lambda _: noise(60, 48), 40, config, streams(0), masks=False)
    assert (normalise(unchanged.image) - preprocess(noise(60, 48), 40)).abs().max() < 1.01 / 255 / 0.224


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_upstreams_for_the_same_matches(seed: int) -> None:
    # Loaded by its path: its package needs a module that rfdetr does not install.
    file = Path(coco.__file__).parent.parent / "evaluation" / "f1_sweep.py"
    sweep_confidence_thresholds = runpy.run_path(str(file))["sweep_confidence_thresholds"]
    truth = ground_truth(10, 3, seed)
    results = guesses(truth, seed)
    scores = score(truth, results)
    pairs = [pair for matches in scores.matches.values() for pair in matches.pairs]
    data = []
    for label in range(3):
        own = [
            (results[place]["score"], match is not None)
            for place, match in pairs
            if results[place]["category_id"] == label
        ]
        values, hits = np.array([pair[0] for pair in own]), np.array([pair[1] for pair in own])
        total = sum(annotation["category_id"] == label for annotation in truth["annotations"])
        data.append({"scores": values, "matches": hits, "ignore": np.zeros(len(own), dtype=bool), "total_gt": total})
    best = max(sweep_confidence_thresholds(data, THRESHOLDS, [0, 1, 2]), key=lambda point: point["macro_f1"])
    expected = [best["macro_f1"], best["macro_precision"], best["macro_recall"], best["confidence_threshold"]]
    assert [scores.f1, scores.precision, scores.recall, scores.threshold] == pytest.approx(expected)
