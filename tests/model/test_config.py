from __future__ import annotations

import subprocess
import sys

import pytest

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.model.config import VARIANTS, ModelConfig, resized


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_numbers_of_every_variant_are_valid(variant: str) -> None:
    architecture = VARIANTS[variant]
    assert architecture.resolution % architecture.stride == 0
    assert architecture.encoder_width % architecture.encoder_heads == 0
    assert architecture.width % architecture.self_heads == architecture.width % architecture.cross_heads == 0
    assert list(architecture.feature_indexes) == sorted(architecture.feature_indexes)
    assert architecture.feature_indexes[-1] <= architecture.encoder_blocks


@pytest.mark.parametrize(("variant", "grid"), [("nano", 32), ("base", 37)])
def test_the_position_grid_follows_the_resolution_only_for_variants_where_it_did(variant: str, grid: int) -> None:
    stride = VARIANTS[variant].stride
    resolution = 512 // stride * stride
    assert resized(VARIANTS[variant], resolution) == {"resolution": resolution, "position_grid": grid}


def test_an_indivisible_resolution_is_an_error_with_the_nearest_ones() -> None:
    with pytest.raises(UserError, match=r"400 .* by 32, .* 16 x windows 2 .* 384 or 416"):
        parse(ModelConfig, {"variant": "nano", "resolution": 400}, "params.yaml: model").architecture(3)


def test_an_unknown_variant_is_an_error_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="nano, small, medium"):
        parse(ModelConfig, {"variant": "huge"}, "params.yaml: model")


def test_changes_reach_the_architecture() -> None:
    values = {"variant": "seg-nano", "num_queries": 50, "group_detr": 2, "num_channels": 1, "resolution": 120}
    changed = parse(ModelConfig, values, "params.yaml: model").architecture(7)
    numbers = (changed.queries, changed.groups, changed.channels, changed.resolution, changed.position_grid)
    assert numbers == (50, 2, 1, 120, 10)
    assert changed.classes == 7


def test_reading_the_numbers_needs_no_torch() -> None:
    code = "import sys, rfdetr_core.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
