from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.data.dataset import DetectionDataset, Item, SampleKey
from rfdetr_core.data.samples import read_samples
from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from tests.data.canonical import rectangle, samples_of, write_split


def equal(first: Item, other: Item) -> bool:
    same = torch.equal(first.image, other.image) and torch.equal(first.target.boxes, other.target.boxes)
    return same and torch.equal(first.target.labels, other.target.labels)


def test_an_item_is_a_pure_function_of_seed_epoch_image_and_repeat(tmp_path: Path) -> None:
    root, samples = samples_of(tmp_path, 4)

    def train_set(seed: int) -> DetectionDataset:
        return DetectionDataset(samples, root, 32, augmentation=AugmentConfig(brightness=0.5), seed=seed)

    first = train_set(0)
    item = first[SampleKey(1, 3, 0)]
    torch.manual_seed(5)
    _ = first[SampleKey(0, 2, 0)]
    assert equal(first[SampleKey(1, 3, 0)], item)
    other_items = [first[SampleKey(2, 3, 0)], first[SampleKey(1, 3, 1)], train_set(1)[SampleKey(1, 3, 0)]]
    assert not any(equal(other, item) for other in other_items)


def test_boxes_are_fractions_of_the_image(tmp_path: Path) -> None:
    root, annotations, manifest = write_split(tmp_path, [("a.png", (40, 80), [rectangle(10, 20, 20, 40, label=2)])])
    target = DetectionDataset(read_samples(annotations, manifest), root, 32)[0].target
    torch.testing.assert_close(target.boxes, torch.tensor([[0.5, 0.5, 0.5, 0.5]]))
    assert target.labels.tolist() == [2]
    assert target.masks is None


def test_boxes_are_clipped_and_targets_have_none_outside_and_no_crowds(tmp_path: Path) -> None:
    inside, across, outside = rectangle(2, 2, 4, 4), rectangle(35, 30, 20, 20, label=1), rectangle(50, 5, 5, 5)
    instances = [inside, across, outside, rectangle(5, 5, 9, 9, iscrowd=1), rectangle(8, 8, 0, 5)]
    root, annotations, manifest = write_split(tmp_path, [("a.png", (40, 40), instances)])
    samples = read_samples(annotations, manifest)
    for augmentation in (None, AugmentConfig(crop_sides=(), horizontal_flip=0)):
        target = DetectionDataset(samples, root, 40, augmentation=augmentation)[0].target
        assert target.labels.tolist() == [0, 1]
        torch.testing.assert_close(
            cxcywh_to_xyxy(target.boxes) * 40, torch.tensor([[2.0, 2, 6, 6], [35, 30, 40, 40]]), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("augmentation", [None, AugmentConfig(quarter_turn=0.5)])
def test_masks_come_with_a_segmenter_and_fit_the_input(tmp_path: Path, augmentation: AugmentConfig | None) -> None:
    root, samples = samples_of(tmp_path, 4)
    for index in range(4):
        target = DetectionDataset(samples, root, 32, masks=True, augmentation=augmentation)[index].target
        assert target.masks is not None
        assert target.masks.shape == (len(target.labels), 32, 32)
        assert target.masks.dtype == torch.bool


def test_a_segmenter_needs_a_segmentation_of_all_but_crowds(tmp_path: Path) -> None:
    bare = {"segmentation": None}
    images = [("a.png", (40, 40), [rectangle(1, 1, 5, 5, iscrowd=1, **bare)]), ("b.png", (40, 40), [])]
    root, annotations, manifest = write_split(tmp_path, images)
    assert DetectionDataset(read_samples(annotations, manifest), root, 32, masks=True)[0].target.labels.tolist() == []
    images[1][2].append(rectangle(1, 1, 5, 5, **bare))
    root, annotations, manifest = write_split(tmp_path, images)
    with pytest.raises(UserError, match=r"b\.png"):
        DetectionDataset(read_samples(annotations, manifest), root, 32, masks=True)


@pytest.mark.parametrize("fault", ["changed", "missing", "damaged"])
def test_bytes_that_are_not_those_of_the_manifest_are_never_decoded(tmp_path: Path, fault: str) -> None:
    root, annotations, manifest = write_split(tmp_path, [("a.png", (40, 40), [])])
    image = root / "a.png"
    if fault == "changed":
        image.write_bytes(image.read_bytes() + b"\0")
    elif fault == "missing":
        image.unlink()
    else:
        from rfdetr_core.base import files

        image.write_bytes(image.read_bytes()[:200])
        rows = json.loads(manifest.read_text())
        manifest.write_text(json.dumps([rows[0] | {"sha256": files.sha256_file(image)}]))
    with pytest.raises(UserError, match=r"a\.png"):
        DetectionDataset(read_samples(annotations, manifest), root, 32)[0]
