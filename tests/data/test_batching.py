from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rfdetr_core.data.batching import EpochSampler, collate, multi_scale_size, multi_scale_sizes
from rfdetr_core.data.dataset import DetectionDataset, SampleKey
from rfdetr_core.data.preprocess import normalise
from rfdetr_core.model.config import VARIANTS
from tests.data.canonical import samples_of

sizes = st.integers(1, 5)


def draws(sampler: EpochSampler, epoch: int = 0) -> list[SampleKey]:
    sampler.set_epoch(epoch)
    return list(sampler)


@given(st.integers(1, 60), sizes, sizes, st.integers(1, 3))
def test_every_image_comes_in_every_epoch_and_steps_are_whole(
    count: int, batch_size: int, accumulate: int, world: int
) -> None:
    ranks = [EpochSampler(count, 0, batch_size, accumulate, rank, world) for rank in range(world)]
    shares = [draws(sampler) for sampler in ranks]
    step = batch_size * accumulate * world
    everything = [draw for share in shares for draw in share]
    assert {draw.image for draw in everything} == set(range(count))
    assert len(set(everything)) == len(everything)  # a repeated image has another repeat, so another augmentation
    assert len(everything) == ranks[0].steps * step < count + step
    assert all(len(share) == len(sampler) for share, sampler in zip(shares, ranks, strict=True))
    times = Counter(draw.image for draw in everything).values()
    assert max(times) - min(times) <= 1


@given(st.integers(1, 40), sizes, st.sampled_from([1, 2, 3, 4]), st.integers(0, 3))
def test_an_optimiser_step_sees_the_same_images_for_every_world_size(
    count: int, batch_size: int, world: int, epoch: int
) -> None:
    single = draws(EpochSampler(count, 7, batch_size * world), epoch)
    shares = [draws(EpochSampler(count, 7, batch_size, 1, rank, world), epoch) for rank in range(world)]
    in_turn = draws(EpochSampler(count, 7, batch_size, world), epoch)
    step = batch_size * world
    for start in range(0, len(single), step):
        joined = [draw for share in shares for draw in share[start // world : (start + step) // world]]
        assert joined == single[start : start + step] == in_turn[start : start + step]


def test_the_order_is_a_pure_function_of_seed_and_epoch() -> None:
    sampler, other_seed = EpochSampler(50, 0, 4), EpochSampler(50, 1, 4)
    first, second = draws(sampler, 3), draws(sampler, 4)
    assert draws(EpochSampler(50, 0, 4), 3) == draws(sampler, 3) == first
    order = [draw.image for draw in first]
    assert order != [draw.image for draw in second]
    assert order != [draw.image for draw in draws(other_seed, 3)]
    assert order != sorted(order)


def test_a_batch_holds_its_items_in_order(tmp_path: Path) -> None:
    root, samples = samples_of(tmp_path, 3)
    items = [DetectionDataset(samples, root, 32, masks=True)[index] for index in (2, 0)]
    batch = collate(items)
    assert batch.padding is None
    assert [sample.path for sample in batch.samples] == ["train/02.png", "train/00.png"]
    for image, target, item in zip(batch.images, batch.targets, items, strict=True):
        assert torch.equal(image, item.image)
        assert target is item.target
    assert torch.equal(batch.normalised().images[1], normalise(items[1].image))
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.targets[0].boxes.is_meta
    assert moved.samples == batch.samples


# The sizes of multi_scale with expanded_scales that upstream computes, as first, last and distance.
UPSTREAMS = {
    "nano": (224, 544, 32),
    "small": (352, 672, 32),
    "medium": (416, 736, 32),
    "large": (544, 864, 32),
    "base": (280, 840, 56),
    "seg-nano": (252, 372, 12),
    "seg-small": (264, 504, 24),
    "seg-preview": (312, 552, 24),
    "seg-medium": (312, 552, 24),
    "seg-large": (384, 624, 24),
    "seg-xlarge": (504, 744, 24),
    "seg-2xlarge": (648, 888, 24),
}


@pytest.mark.parametrize("variant", UPSTREAMS)
def test_multi_scale_sizes_are_upstreams(variant: str) -> None:
    numbers = VARIANTS[variant]
    first, last, distance = UPSTREAMS[variant]
    sizes = multi_scale_sizes(numbers.resolution, numbers.patch_size, numbers.windows)
    assert sizes == list(range(first, last + 1, distance))


@pytest.mark.parametrize("name", sorted(VARIANTS))
@pytest.mark.parametrize("expanded", [True, False])
def test_multi_scale_sizes_are_valid_inputs_around_the_resolution(name: str, expanded: bool) -> None:
    numbers = VARIANTS[name]
    sizes = multi_scale_sizes(numbers.resolution, numbers.patch_size, numbers.windows, expanded)
    assert numbers.resolution in sizes
    assert all(side % numbers.stride == 0 and side >= 2 * numbers.stride for side in sizes)
    assert sizes == sorted(set(sizes))


def test_the_size_of_a_step_depends_on_seed_and_step_and_takes_every_size() -> None:
    sides = [224, 256, 288]
    drawn = [multi_scale_size(step, sides, seed=0) for step in range(200)]
    assert drawn == [multi_scale_size(step, sides, seed=0) for step in range(200)]
    assert drawn != [multi_scale_size(step, sides, seed=1) for step in range(200)]
    assert all(40 < count < 95 for count in Counter(drawn).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_pinned_batch_moves_to_the_gpu_unchanged(tmp_path: Path) -> None:
    root, samples = samples_of(tmp_path, 3)
    batch = collate([DetectionDataset(samples, root, 32, masks=True)[index] for index in range(3)])
    pinned = batch.pin_memory()
    assert pinned.images.is_pinned()
    moved = pinned.to("cuda")
    torch.cuda.synchronize()
    assert torch.equal(moved.images.cpu(), batch.images)
    for target, other in zip(moved.targets, batch.targets, strict=True):
        assert torch.equal(target.boxes.cpu(), other.boxes)
        assert target.masks is not None
        assert other.masks is not None
        assert torch.equal(target.masks.cpu(), other.masks)
