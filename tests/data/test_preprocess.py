from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from rfdetr_core.data.batching import collate
from rfdetr_core.data.dataset import DetectionDataset
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalise, preprocess
from tests.data.canonical import samples_of


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (50, 30), (300, 200), (1, 90)])
def test_preprocessing_is_pillows_bilinear_resize_and_imagenets_normalisation(size: tuple[int, int]) -> None:
    image = noise(*size)
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)) / 255
    expected = ((pixels - IMAGENET_MEAN) / IMAGENET_STD).transpose(2, 0, 1)
    result = preprocess(image, 64)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)


def test_normalisation_gives_the_bits_of_torchvision() -> None:
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = F.normalize(F.to_dtype(images, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert torch.equal(normalise(images), expected)


def test_validation_sees_exactly_what_predict_sees(tmp_path: Path) -> None:
    root, samples = samples_of(tmp_path, 3, size=(50, 70))
    valid_set = DetectionDataset(samples, root, 32)
    batch = collate([valid_set[index] for index in range(3)]).normalised()
    for validated, sample in zip(batch.images, batch.samples, strict=True):
        with Image.open(root / sample.path) as image:
            assert torch.equal(validated, preprocess(image.convert("RGB"), 32))
