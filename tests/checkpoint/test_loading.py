"""Loading weights into a detector: the rules for other numbers of classes or queries, the report, and the errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import Checkpoint, make_checkpoint, model_config_of, write_checkpoint
from rfdetr_core.checkpoint.loading import (
    COCO_NAMES,
    LEFT,
    TAKEN,
    adapt_channels,
    architecture_of,
    build_from_checkpoint,
    class_names_of,
    first_queries,
    load_weights,
    repeat_rows,
)
from rfdetr_core.model.config import VARIANTS, Architecture, ModelConfig, resized
from rfdetr_core.model.detector import build_detector
from tests.checkpoint.tiny import TINY, tiny_checkpoint, tiny_detector

NAMES = list(VARIANTS)


def _without_config(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    return replace(checkpoint, model_config={}, model_name=None, **changes)


def _shapes(architecture: Architecture) -> Checkpoint:
    """A checkpoint whose tensors have shapes and no content."""
    with torch.device("meta"):
        weights = build_detector(architecture).state_dict()
    return make_checkpoint(architecture, weights, class_names=[], args={})


def test_a_file_builds_the_detector_that_wrote_it(tmp_path: Path) -> None:
    architecture, detector = tiny_detector()
    write_checkpoint(tmp_path / "a.pth", tiny_checkpoint())
    state = torch.get_rng_state()
    loaded = build_from_checkpoint(tmp_path / "a.pth")
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded.architecture == architecture
    assert not loaded.detector.training
    assert set(loaded.report.actions.values()) == {TAKEN}
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.detector(images).logits, detector(images).logits)


@pytest.mark.parametrize("variant", NAMES)
def test_the_architecture_is_read_from_model_config(variant: str) -> None:
    architecture = replace(VARIANTS[variant], classes=7, queries=50, groups=2)
    assert architecture_of(_shapes(architecture)) == architecture
    other = replace(architecture, **resized(architecture, 2 * architecture.resolution))
    assert architecture_of(_shapes(other)) == other


@pytest.mark.parametrize("variant", NAMES)
def test_the_architecture_of_a_published_file_is_read_from_its_weights(variant: str) -> None:
    assert architecture_of(_without_config(_shapes(VARIANTS[variant]))) == VARIANTS[variant]


def test_if_two_variants_fit_the_published_name_decides() -> None:
    architecture = replace(VARIANTS["medium"], resolution=640, position_grid=40)
    checkpoint = _without_config(_shapes(architecture))
    with pytest.raises(UserError, match="RFDETRMedium or RFDETRLarge"):
        architecture_of(checkpoint)
    assert architecture_of(replace(checkpoint, path=Path("x/rf-detr-medium.pth"))) == architecture
    named = replace(checkpoint, args={"pretrain_weights": "/home/me/rf-detr-large-2026.pth"})
    assert architecture_of(named).name == "RFDETRLarge"


def test_weights_of_no_known_model_are_an_error_without_model_config() -> None:
    with pytest.raises(UserError, match="no known variant"):
        architecture_of(_without_config(tiny_checkpoint()))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("resolution", "384", "model_config.resolution: it must be a whole number, found '384'"),
        ("resolution", None, "model_config.resolution: it must be a whole number, found None"),
        ("num_windows", 0, "model_config.num_windows: 0 is less than 1"),
        ("out_feature_indexes", [1, "2"], "model_config.out_feature_indexes.1: it must be a whole number, found '2'"),
        ("segmentation_head", 1, "model_config.segmentation_head: it must be true or false, found 1"),
        ("encoder", "dinov2_registers_windowed_small", "model_config.encoder is 'dinov2_registers_windowed_small'"),
        ("encoder", ["x"], "model_config.encoder"),
        ("bbox_reparam", False, "only models with True"),
        ("num_decoder_registers", 4, "only models with 0"),
        ("patch_size", 14, "contradicts itself: its model_config says patch_size 14, but its weights have 8"),
        ("dec_layers", 3, "contradicts itself: its model_config says decoder_layers 3, but its weights have 2"),
    ],
)
def test_a_model_config_that_is_wrong_or_not_supported_is_named(field: str, value: Any, message: str) -> None:
    config = model_config_of(TINY) | {field: value}
    with pytest.raises(UserError, match=message):
        architecture_of(replace(tiny_checkpoint(), model_config=config))


def test_class_rows_are_cut_or_repeated() -> None:
    rows = torch.arange(4.0)
    assert repeat_rows(rows, 2).tolist() == [0, 1]
    assert repeat_rows(rows, 4).tolist() == [0, 1, 2, 3]
    assert repeat_rows(rows[:, None], 10).flatten().tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_the_first_queries_of_the_first_groups_are_kept() -> None:
    labels = torch.tensor([[group, query] for group in range(3) for query in range(4)])
    assert first_queries(labels, 3, 2, 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_a_grey_image_keeps_its_strength_in_other_channels(channels: int) -> None:
    weight = torch.randn(5, 1, 2, 2).expand(5, 3, 2, 2)  # the same for red, green and blue
    adapted = adapt_channels(weight, channels)
    assert adapted.shape == (5, channels, 2, 2)
    expected = weight.sum(dim=1) if channels > 1 else weight.mean(dim=1)
    assert torch.allclose(adapted.sum(dim=1), expected, atol=1e-6)


def test_the_report_says_how_each_part_was_loaded() -> None:
    changes = {"classes": 1, "queries": 4, "groups": 2, "channels": 1} | resized(TINY, 64)
    architecture, detector = tiny_detector(seed=1, **changes)
    report = load_weights(detector, architecture, tiny_checkpoint())
    assert report.actions["query_boxes"] == "cut from 3 groups of 6 to 2 of 4"
    assert report.actions["class_head.weight"] == "cut from 4 to 2 rows"
    assert report.actions["proposer.groups.1.class_head.bias"] == "cut from 4 to 2 rows"
    assert report.actions["encoder.position_embeddings"] == "resized from 4 to 8 positions a side"
    assert report.actions["encoder.patch_projection.weight"] == "averaged from 3 to 1 channels"
    assert report.actions["decoder.norm.weight"] == TAKEN
    assert all(name.startswith("proposer.groups.2.") for name in report.unused)
    text = report.describe()
    assert "class_head: 2 cut from 4 to 2 rows" in text
    assert f"not used: {len(report.unused)} of the file" in text
    assert detector(torch.randn(1, 1, 64, 64)).logits.shape == (1, 4, 2)


def test_more_classes_repeat_the_rows() -> None:
    architecture, detector = tiny_detector(seed=1, classes=8)
    report = load_weights(detector, architecture, tiny_checkpoint())
    assert report.actions["class_head.weight"] == "tiled from 4 to 9 rows"
    stored = tiny_checkpoint().weights["class_head.weight"]
    assert torch.equal(detector.class_head.weight, torch.cat([stored, stored, stored[:1]]))


@pytest.mark.parametrize("class_names", [("c", "a", "b"), ("new", "b"), ("b", "new", "a", "other"), ("a",)])
def test_a_class_gets_the_row_of_its_name(class_names: tuple[str, ...]) -> None:
    checkpoint = replace(tiny_checkpoint(), args={"class_names": ["a", "b", "c"]})
    architecture, detector = tiny_detector(seed=1, classes=len(class_names))
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    report = load_weights(detector, architecture, checkpoint, class_names)
    for head in ("class_head.weight", "class_head.bias", "proposer.groups.2.class_head.weight"):
        rows, stored = detector.state_dict()[head], checkpoint.weights[head]
        for label, name in enumerate(class_names):
            assert torch.equal(rows[label], stored["abc".index(name)] if name in "abc" else before[head][label])
        assert torch.equal(rows[-1], stored[-1])
        new = ", ".join(name for name in class_names if name not in "abc")
        assert report.actions[head] == "matched by class name" + (f" (new: {new})" if new else "")


@pytest.mark.parametrize(
    ("names", "class_names"),
    [
        (["a", "b", "c"], ("x", "y")),  # no name matches
        (["a", "b"], ("b", "a")),  # COCO's published files: fewer names than rows
        (["a", "a", "b"], ("b", "a")),
        (None, ("b", "a")),
        (["a", "b", "c"], ()),
        (["a", None, 3], ("a",)),
    ],
)
def test_class_rows_are_taken_by_number_if_names_do_not_match(
    names: list[str] | None, class_names: tuple[str, ...]
) -> None:
    checkpoint = tiny_checkpoint()
    expected, detector = (tiny_detector(seed=1, classes=2) for _ in range(2))
    load_weights(expected[1], expected[0], checkpoint)
    load_weights(detector[1], detector[0], replace(checkpoint, args={"class_names": names}), class_names)
    for first, other in zip(expected[1].state_dict().values(), detector[1].state_dict().values(), strict=True):
        assert torch.equal(first, other)


def test_a_missing_weight_keeps_its_value_and_is_reported_but_the_file_is_not_a_model(tmp_path: Path) -> None:
    architecture, detector = tiny_detector(seed=1)
    before = detector.state_dict()["decoder.norm.weight"].clone()
    checkpoint = tiny_checkpoint()
    del checkpoint.weights["decoder.norm.weight"]
    report = load_weights(detector, architecture, checkpoint)
    assert report.missing == ("decoder.norm.weight",)
    assert f"1 {LEFT}" in report.describe()
    assert torch.equal(detector.state_dict()["decoder.norm.weight"], before)
    write_checkpoint(tmp_path / "a.pth", checkpoint)
    with pytest.raises(UserError, match=r"is incomplete: it lacks 1 weights, such as decoder\.norm\.weight"):
        build_from_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 7}, "has 6 queries, but model.num_queries is 7. Lower it"),
        ({"groups": 4}, "has 3 groups, but model.group_detr is 4. Lower it"),
        ({"patch_size": 16, "position_grid": 4}, "patch_size 8 instead of 16"),
        ({"segmentation": True}, "segmentation False instead of True"),
        ({"windows": 1}, "windows 2 instead of 1"),
        ({"decoder_layers": 3}, "decoder_layers 2 instead of 3"),
        ({"cross_heads": 4}, "cross_heads 2 instead of 4"),
    ],
)
def test_a_weight_that_no_rule_adapts_is_an_error(changes: dict[str, Any], message: str) -> None:
    architecture, detector = tiny_detector(seed=1, name="Other", **changes)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_weights(detector, architecture, tiny_checkpoint())
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


@pytest.mark.parametrize(
    ("stored", "variant"),
    [("nano", "small"), ("medium", "large"), ("nano", "base"), ("seg-nano", "seg-small"), ("small", "seg-small")],
)
@pytest.mark.parametrize("published", [False, True])
def test_another_variant_is_an_error_that_names_both(stored: str, variant: str, published: bool) -> None:
    checkpoint = replace(_shapes(VARIANTS[stored]), path=Path(str(VARIANTS[stored].weights_file)))
    if published:
        checkpoint = _without_config(checkpoint)
    with torch.device("meta"):
        detector = build_detector(VARIANTS[variant])
    message = f"holds weights of {VARIANTS[stored].name}, not of {VARIANTS[variant].name}"
    with pytest.raises(UserError, match=message):
        load_weights(detector, VARIANTS[variant], checkpoint)


def test_other_channels_than_rgb_are_not_adapted() -> None:
    architecture, detector = tiny_detector(seed=1)
    with pytest.raises(UserError, match=r"has 4 channels, but model\.num_channels is 3"):
        load_weights(detector, architecture, tiny_checkpoint(channels=4))


def test_class_names() -> None:
    assert class_names_of(tiny_checkpoint()) == ("class 0", "class 1", "class 2")
    assert class_names_of(replace(tiny_checkpoint(), args={})) == ("0", "1", "2")
    assert class_names_of(replace(tiny_checkpoint(), args={"class_names": [1, 2]})) == ("0", "1", "2")
    published = class_names_of(_without_config(_shapes(VARIANTS["nano"]), args={}))
    assert len(published) == 91
    assert (published[0], published[1], published[12], published[18]) == ("0", "person", "12", "dog")
    assert published[90] == "toothbrush"
    in_a_row = [name for name in COCO_NAMES if name]
    assert len(in_a_row) == 80
    assert class_names_of(_without_config(_shapes(VARIANTS["nano"]), args={"class_names": in_a_row})) == published
    tuned = replace(_shapes(replace(VARIANTS["nano"], classes=80)), args={"class_names": in_a_row})
    assert class_names_of(tuned) == tuple(in_a_row)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_exported_file_has_the_architecture_of_its_source_without_weights(variant: str) -> None:
    architecture = ModelConfig(variant=variant, num_queries=7, group_detr=2).architecture(3)
    names = ["a", "b", "c"]
    checkpoint = make_checkpoint(architecture, {}, class_names=names, args={})
    assert architecture_of(checkpoint) == architecture
    assert class_names_of(checkpoint) == ("a", "b", "c")
