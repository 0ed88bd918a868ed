"""Loading files with other numbers of classes, queries, groups, positions or channels gives upstream's tensors."""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import make_checkpoint, read_checkpoint, write_checkpoint
from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
from rfdetr_core.checkpoint.loading import adapt_channels, load_weights
from rfdetr_core.model.config import VARIANTS, Architecture, resized
from rfdetr_core.model.detector import build_detector
from tests.parity.reference import SMALL, build_upstream_like, random_weights

import rfdetr  # isort: skip
import rfdetr.config as upstream_config  # isort: skip
from rfdetr.inference import _adapt_input_conv  # isort: skip
from rfdetr.models.weights import load_pretrain_weights  # isort: skip


def _file(path: Path, **args: int) -> None:
    """A file of the published layout with the weights of the small model."""
    model = random_weights(build_upstream_like(SMALL))
    torch.save({"model": model, "args": argparse.Namespace(**args)}, path)


def _upstream(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of upstream's model of `architecture`, after upstream's loader has read the file."""
    model = build_upstream_like(architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = upstream_config.RFDETRNanoConfig(
            pretrain_weights=str(path),
            device="cpu",
            patch_size=architecture.patch_size,
            num_classes=architecture.classes,
            num_queries=architecture.queries,
            group_detr=architecture.groups,
            resolution=architecture.resolution,
            positional_encoding_size=architecture.position_grid,
            segmentation_head=architecture.segmentation,
        )
    load_pretrain_weights(model, config)
    return {to_ours(name): tensor for name, tensor in model.state_dict().items() if name != KEYPOINT_MASK}


CHANGES: dict[str, dict[str, int]] = {
    "nothing": {},
    "fewer classes": {"classes": 2},
    "one class": {"classes": 1},
    "more classes": {"classes": 7},
    "many more classes": {"classes": 40},
    "fewer queries": {"queries": 7},
    "fewer groups": {"groups": 4},
    "one group": {"groups": 1},
    "fewer of both": {"queries": 3, "groups": 5},
    "larger input": resized(SMALL, 112),
    "smaller input": resized(SMALL, 48),
    "all at once": {"classes": 9, "queries": 5, "groups": 2} | resized(SMALL, 96),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_numbers_of_classes_queries_or_groups_give_upstreams_tensors(change: str, tmp_path: Path) -> None:
    _file(tmp_path / "a.pth", num_queries=SMALL.queries, group_detr=SMALL.groups)
    architecture = replace(SMALL, **CHANGES[change])  # type: ignore[arg-type]
    expected = _upstream(tmp_path / "a.pth", architecture)
    detector = build_detector(architecture)
    report = load_weights(detector, architecture, read_checkpoint(tmp_path / "a.pth"))
    weights = detector.state_dict()
    assert weights.keys() == expected.keys()
    assert report.missing == ()
    assert [name for name, tensor in weights.items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.parametrize("change", ["nothing", "fewer queries", "fewer groups", "fewer of both"])
def test_our_file_has_the_arguments_by_which_upstream_groups_queries(change: str, tmp_path: Path) -> None:
    weights = random_weights(build_upstream_like(SMALL))
    ours = {to_ours(name): tensor for name, tensor in weights.items() if name != KEYPOINT_MASK}
    write_checkpoint(tmp_path / "a.pth", make_checkpoint(SMALL, ours, class_names=["a"] * 5, args={}))
    architecture = replace(SMALL, **CHANGES[change])  # type: ignore[arg-type]
    expected = _upstream(tmp_path / "a.pth", architecture)
    detector = build_detector(architecture)
    load_weights(detector, architecture, read_checkpoint(tmp_path / "a.pth"))
    loaded = detector.state_dict()
    assert [name for name, tensor in loaded.items() if not torch.equal(tensor, expected[name])] == []


def test_without_args_upstream_mixes_the_groups_and_we_do_not(tmp_path: Path) -> None:
    """Upstream then takes the first rows of all groups together, a flaw that a comment in its code mentions.

    The group that inference uses is the same. The other groups are here as upstream loads a file with args.
    """
    architecture = replace(SMALL, queries=7)
    _file(tmp_path / "told.pth", num_queries=SMALL.queries, group_detr=SMALL.groups)
    _file(tmp_path / "untold.pth")
    grouped = _upstream(tmp_path / "told.pth", architecture)
    untold = _upstream(tmp_path / "untold.pth", architecture)
    detector = build_detector(architecture)
    load_weights(detector, architecture, read_checkpoint(tmp_path / "untold.pth"))
    for name in ("query_boxes", "query_features"):
        tensor = detector.state_dict()[name]
        assert torch.equal(tensor, grouped[name])
        assert torch.equal(tensor[:7], untold[name][:7])
        assert not torch.equal(tensor, untold[name])


@pytest.mark.parametrize("change", [{"queries": 21}, {"groups": 14}])
def test_more_queries_or_groups_are_an_error_in_both_projects(change: dict[str, int], tmp_path: Path) -> None:
    _file(tmp_path / "a.pth", num_queries=SMALL.queries, group_detr=SMALL.groups)
    architecture = replace(SMALL, **change)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="size mismatch"):
        _upstream(tmp_path / "a.pth", architecture)
    with pytest.raises(UserError, match=r"but model\.(num_queries|group_detr) is \d+\. Lower it"):
        load_weights(build_detector(architecture), architecture, read_checkpoint(tmp_path / "a.pth"))


@pytest.mark.parametrize("change", [{"segmentation": True}, {"patch_size": 16, "position_grid": 4}])
def test_another_head_or_patch_size_is_an_error_in_both_projects(change: dict[str, Any], tmp_path: Path) -> None:
    _file(tmp_path / "a.pth", segmentation_head=False, num_queries=SMALL.queries, group_detr=SMALL.groups)
    architecture = replace(SMALL, **change)
    with pytest.raises(ValueError, match="checkpoint was trained with"):
        _upstream(tmp_path / "a.pth", architecture)
    with pytest.raises(UserError, match="holds weights of"):
        load_weights(build_detector(architecture), architecture, read_checkpoint(tmp_path / "a.pth"))


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6, 7])
def test_channels_are_adapted_as_upstream_does(channels: int) -> None:
    weight = torch.randn(6, 3, 4, 4)
    assert torch.equal(adapt_channels(weight, channels), _adapt_input_conv(channels, weight))


def test_upstreams_model_of_four_channels_has_the_same_weights(tmp_path: Path) -> None:
    stored = replace(VARIANTS["nano"], classes=3, queries=10, groups=2)
    weights = build_detector(stored).state_dict()
    write_checkpoint(tmp_path / "a.pth", make_checkpoint(stored, weights, class_names=["a", "b", "c"], args={}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = rfdetr.RFDETRNano(
            pretrain_weights=str(tmp_path / "a.pth"), num_channels=4, num_queries=10, group_detr=2, device="cpu"
        )
    architecture = replace(stored, channels=4)
    detector = build_detector(architecture)
    report = load_weights(detector, architecture, read_checkpoint(tmp_path / "a.pth"))
    assert report.actions["encoder.patch_projection.weight"] == "tiled from 3 to 4 channels"
    expected = {to_ours(name): t for name, t in theirs.model.model.state_dict().items() if name != KEYPOINT_MASK}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in detector.state_dict().items())
