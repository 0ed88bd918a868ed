from __future__ import annotations

from typing import Any

import pytest
import torch

from rfdetr_core.model.vit import Block, DropPath, VisionTransformer
from tests.small import random_images


def make(**changes: Any) -> VisionTransformer:
    numbers: dict[str, Any] = {
        "channels": 3,
        "patch_size": 4,
        "width": 12,
        "blocks": 4,
        "heads": 2,
        "mlp_ratio": 2,
        "windows": 2,
        "position_grid": 8,
        "feature_indexes": (1, 3),
    }
    torch.manual_seed(0)
    return VisionTransformer(**numbers | changes)


def test_features_have_the_size_of_the_patches() -> None:
    maps = make()(random_images(2, 3, 32, 48))
    assert [feature_map.shape for feature_map in maps] == [(2, 12, 8, 12)] * 2


def test_a_windowed_block_sees_its_window_and_a_global_block_the_whole_image() -> None:
    images = random_images(2, 3, 32, 32)
    changed = images.clone()
    changed[0, :, :16, 16:] += 1  # the upper right window of the first image
    before, after = (make().double()(x.double()) for x in (images, changed))
    windowed = (before[0] - after[0]).abs().amax(dim=1)  # after block 0
    assert (windowed[0, :4, 4:] > 0).all()
    windowed[0, :4, 4:] = 0
    assert (windowed == 0).all()
    whole = (before[1] - after[1]).abs().amax(dim=1)  # after block 1, which is global, and 2
    assert (whole[0] > 0).all()
    assert (whole[1] == 0).all()


def test_unused_parameters_are_frozen_and_all_others_get_a_gradient() -> None:
    encoder = make()
    sum(feature_map.sum() for feature_map in encoder(random_images(1, 3, 32, 32))).backward()
    frozen = {name for name, value in encoder.named_parameters() if not value.requires_grad}
    assert frozen == {"mask_token", *(name for name, _ in encoder.named_parameters() if name.startswith("blocks.3."))}
    assert {name for name, value in encoder.named_parameters() if value.grad is None} == frozen


def test_an_image_of_indivisible_size_is_an_error_with_its_size() -> None:
    with pytest.raises(ValueError, match=r"\(32, 36\).*divisible by 8"):
        make()(random_images(1, 3, 32, 36))


def test_checkpointing_changes_no_bit_of_the_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = make(gradient_checkpointing=checkpointing, drop_path=0.5).train()
        torch.manual_seed(1)
        sum(feature_map.square().sum() for feature_map in encoder(random_images(2, 3, 32, 32))).backward()
        gradients.append([value.grad for value in encoder.parameters() if value.grad is not None])
    assert all(plain.equal(recomputed) for plain, recomputed in zip(*gradients, strict=True))


def test_drop_path_rises_linearly_over_the_blocks() -> None:
    rates = [block.drop_path.rate for block in make(drop_path=0.3).blocks if isinstance(block, Block)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_drop_path_drops_whole_rows_and_keeps_the_mean() -> None:
    drop = DropPath(0.25)
    dropped = drop(torch.ones(4000, 2, 3))
    assert sorted(dropped.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(torch.ones(4, 2, 3)).equal(torch.ones(4, 2, 3))
