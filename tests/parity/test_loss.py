"""Every term of the loss, the total and all gradients equal those of upstream's criterion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours, to_upstream
from rfdetr_core.loss.criterion import Criterion, Losses
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import DetectorOutput, Target
from tests.loss.synthetic import (
    BATCHES,
    GROUPS,
    as_upstream,
    gradients,
    leaves_of,
    make_output,
    make_targets,
    targets_as_upstream,
)
from tests.parity import reference

upstream_lwdetr = pytest.importorskip("rfdetr.models.lwdetr")
upstream_criterion = pytest.importorskip("rfdetr.models.criterion")

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
POINT_SEED = 7
BOX_TERMS = ("loss_ce", "loss_bbox", "loss_giou")
MASK_TERMS = ("loss_mask_ce", "loss_mask_dice")


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float, name: str) -> None:
    difference, size = (ours - theirs).norm().item(), theirs.norm().item()
    assert difference <= tolerance * size, f"{name}: {difference:.3g} of {size:.3g}"


def criterion_of_upstream(groups: int, layers: int, segmentation: bool, classes: int = 6) -> Any:
    architecture = replace(
        reference.SMALL, groups=groups, decoder_layers=layers, segmentation=segmentation, classes=classes - 1
    )
    return upstream_lwdetr.build_criterion_and_postprocessors(reference.upstream_namespace(architecture))[0]


@contextmanager
def our_points(dtype: torch.dtype) -> Iterator[None]:
    """Make upstream draw the same points as ours, and sample masks in float64 too."""
    generator = torch.Generator().manual_seed(POINT_SEED)
    draw, sample = torch.rand, upstream_criterion.point_sample

    def rand(*size: int, device: Any = None) -> Tensor:
        return draw(*size, generator=generator, dtype=dtype)

    def point_sample(values: Tensor, points: Tensor, **options: Any) -> Tensor:
        return sample(values.to(points.dtype), points, **options)

    with mock.patch.object(torch, "rand", rand), mock.patch.object(upstream_criterion, "point_sample", point_sample):
        yield


def theirs(criterion: Any, outputs: Any, truth: Any, dtype: torch.dtype) -> Losses:
    """Upstream's terms, and their sum as its training_step computes it."""
    with our_points(dtype):
        losses = criterion(outputs, truth)
    weights = criterion.weight_dict
    terms = {name: value for name, value in losses.items() if name in weights}
    return Losses(torch.stack([terms[name] * weights[name] for name in terms]).sum(), terms)


def assert_same_losses(ours: Losses, theirs: Losses, tolerance: float) -> None:
    assert sorted(ours.terms) == sorted(theirs.terms)
    for name, value in theirs.terms.items():
        assert_near(ours.terms[name], value, tolerance, name)
    assert_near(ours.total, theirs.total, tolerance, "total")


def compare(output: DetectorOutput, targets: list[Target], groups: int, dtype: torch.dtype) -> Losses:
    segmentation = output.masks is not None
    criterion = criterion_of_upstream(groups, len(output.auxiliary) + 1, segmentation, output.logits.shape[-1])
    expected = theirs(criterion, *as_upstream(output, targets), dtype)
    losses = Criterion()(output, targets, groups=groups, point_seed=POINT_SEED)
    assert_same_losses(losses, expected, TOLERANCE[dtype])
    pairs = zip(gradients(output, losses.total), gradients(output, expected.total), strict=True)
    for number, (our_gradient, their_gradient) in enumerate(pairs):
        assert_near(our_gradient, their_gradient, TOLERANCE[dtype], f"gradient {number}")
    return losses


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", BATCHES)
def test_terms_total_and_gradients_of_boxes(kind: str, dtype: torch.dtype) -> None:
    output = make_output(len(BATCHES[kind]), queries=300 if kind == "300 objects" else 20, dtype=dtype)
    losses = compare(output, make_targets(BATCHES[kind], dtype=dtype), GROUPS, dtype)
    assert sorted(losses.terms) == sorted(term + end for term in BOX_TERMS for end in ("", "_0", "_1", "_enc"))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", BATCHES)
def test_terms_total_and_gradients_of_masks(kind: str, dtype: torch.dtype) -> None:
    output = make_output(len(BATCHES[kind]), queries=300 if kind == "300 objects" else 20, masks=True, dtype=dtype)
    losses = compare(output, make_targets(BATCHES[kind], masks=True, dtype=dtype), GROUPS, dtype)
    assert sorted(losses.terms) == sorted(
        term + end for term in BOX_TERMS + MASK_TERMS for end in ("", "_0", "_1", "_enc")
    )


@pytest.mark.parametrize("masks", [False, True])
def test_one_group_and_dense_masks_as_in_evaluation(masks: bool) -> None:
    output = make_output(2, groups=1, masks=masks)
    if masks:
        assert output.masks is not None
        output = replace(output, masks=output.masks.dense())
    targets = make_targets([3, 1], masks=masks)
    criterion = criterion_of_upstream(GROUPS, 3, masks).eval()
    expected = theirs(criterion, *as_upstream(output, targets), torch.float64)
    losses = Criterion()(output, targets, groups=1, point_seed=POINT_SEED)
    assert_same_losses(losses, expected, 1e-8)


def test_extreme_logits() -> None:
    for scale in (30.0, 80.0, 300.0):
        output = make_output(2, layers=1, dtype=torch.float32)
        with torch.no_grad():
            for leaf in leaves_of(output)[::2]:
                leaf.mul_(scale)
        compare(output, make_targets([5, 2], dtype=torch.float32), GROUPS, torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("segmentation", [False, True])
def test_gradients_of_every_parameter_through_the_detector(segmentation: bool, dtype: torch.dtype) -> None:
    architecture = replace(reference.SMALL, segmentation=segmentation)
    upstream = reference.build_upstream_like(architecture).to(dtype).train()
    upstream.load_state_dict(reference.random_weights(upstream))
    detector = build_detector(architecture).to(dtype).train()
    detector.load_state_dict(
        {to_ours(name): value for name, value in upstream.state_dict().items() if name != KEYPOINT_MASK}
    )
    images = reference.random_images(2, 3, 64, 64, dtype=dtype)
    targets = make_targets([4, 2], masks=segmentation, dtype=dtype)
    namespace = reference.upstream_namespace(architecture)
    criterion = upstream_lwdetr.build_criterion_and_postprocessors(namespace)[0]

    truth = targets_as_upstream(targets)
    expected = theirs(criterion, upstream(reference.nested(images), truth), truth, dtype)
    expected.total.backward()
    losses = Criterion(LossConfig())(detector(images), targets, groups=architecture.groups, point_seed=POINT_SEED)
    losses.total.backward()

    assert_same_losses(losses, expected, TOLERANCE[dtype])
    gradient = {name: parameter.grad for name, parameter in upstream.named_parameters()}
    for name, parameter in detector.named_parameters():
        their_gradient = gradient[to_upstream(name)]
        if their_gradient is None:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None, name
        # A key's bias adds the same to every score, which softmax ignores, so its gradient is only rounding.
        if not name.endswith("attention.key.bias"):
            assert_near(parameter.grad, their_gradient, TOLERANCE[dtype], name)
