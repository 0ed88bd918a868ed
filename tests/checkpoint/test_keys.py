from __future__ import annotations

import pytest
import torch

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours, to_upstream, upstream_weights
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_go_to_upstreams_and_back(variant: str) -> None:
    with torch.device("meta"):
        names = list(build_detector(VARIANTS[variant]).state_dict())
    upstream = [to_upstream(name) for name in names]
    assert len(set(upstream)) == len(names)
    assert [to_ours(name) for name in upstream] == names


@pytest.mark.parametrize(
    "unknown_name", ["encoder.norm", "class_head.weight.weight", "query_boxes.bias", "x.class_head.bias"]
)
def test_an_unknown_weight_has_no_name_in_upstream(unknown_name: str) -> None:
    with pytest.raises(KeyError):
        to_upstream(unknown_name)


@pytest.mark.parametrize(
    "unknown_name", [KEYPOINT_MASK, "transformer.enc_output.a.weight", "class_head.weight", "epoch"]
)
def test_an_unknown_weight_of_upstream_has_no_name_here(unknown_name: str) -> None:
    with pytest.raises(KeyError):
        to_ours(unknown_name)


def test_upstreams_empty_keypoint_mask_comes_first() -> None:
    weights = upstream_weights({"class_head.bias": torch.ones(3)})
    assert list(weights) == [KEYPOINT_MASK, "class_embed.bias"]
    assert weights[KEYPOINT_MASK].shape == (0, 0)
    assert weights[KEYPOINT_MASK].dtype == torch.bool
