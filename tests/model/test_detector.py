from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rfdetr_core.model.config import VARIANTS, Architecture
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors
from tests.small import SMALL, random_images, small_detector

SEGMENTER = replace(SMALL, segmentation=True)
ARCHITECTURES = pytest.mark.parametrize("architecture", [SMALL, SEGMENTER], ids=["detector", "segmenter"])
images64 = random_images(3, 3, 64, 64, dtype=torch.float64)


def layers_of(output: DetectorOutput) -> list[DetectorOutput]:
    assert output.proposals is not None
    return [output, *output.auxiliary, output.proposals]


@ARCHITECTURES
@torch.inference_mode()
def test_the_first_group_gives_the_same_output_alone_and_among_all(architecture: Architecture) -> None:
    detector = small_detector(architecture)
    alone, among = detector(images64), detector.train()(images64)
    for layer, every in zip(layers_of(alone), layers_of(among), strict=True):
        torch.testing.assert_close(layer.logits, every.logits[:, : SMALL.queries])
        torch.testing.assert_close(layer.boxes, every.boxes[:, : SMALL.queries])
        assert every.logits.shape[1] == SMALL.queries * SMALL.groups
    if architecture.segmentation:
        assert isinstance(among.masks, MaskFactors)
        assert isinstance(alone.masks, torch.Tensor)
        torch.testing.assert_close(alone.masks, among.masks.dense()[:, : SMALL.queries])
        assert alone.masks.shape == (3, SMALL.queries, 16, 16)


@ARCHITECTURES
@torch.inference_mode()
def test_a_batch_gives_the_outputs_of_its_single_images(architecture: Architecture) -> None:
    detector = small_detector(architecture)
    together = detector(images64)
    for index in range(3):
        alone = detector(images64[index : index + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[index])
        torch.testing.assert_close(alone.boxes[0], together.boxes[index])


@torch.inference_mode()
def test_no_padding_equals_an_empty_padding() -> None:
    detector = small_detector()
    nothing = torch.zeros(3, 64, 64, dtype=torch.bool)
    for layer, padded in zip(layers_of(detector(images64)), layers_of(detector(images64, nothing)), strict=True):
        torch.testing.assert_close(layer.logits, padded.logits)
        torch.testing.assert_close(layer.boxes, padded.boxes)


@torch.inference_mode()
def test_equal_calls_give_equal_bits() -> None:
    detector = small_detector(dtype=torch.float32).train()
    first, second = (layers_of(detector(images64.float())) for _ in range(2))
    assert all(a.logits.equal(b.logits) and a.boxes.equal(b.boxes) for a, b in zip(first, second, strict=True))


@ARCHITECTURES
def test_a_seed_decides_the_initial_weights(architecture: Architecture) -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build_detector(architecture).state_dict())
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@ARCHITECTURES
def test_every_parameter_that_is_not_frozen_gets_a_gradient(architecture: Architecture) -> None:
    # With features 1 and 3, block 3 is unused, as in base and large-deprecated.
    detector = build_detector(replace(architecture, feature_indexes=(1, 3))).train()
    total = torch.zeros(())
    for layer in layers_of(detector(images64.float())):
        total = total + layer.logits.square().sum() + layer.boxes.square().sum()
        if isinstance(layer.masks, MaskFactors):
            total = total + layer.masks.dense().square().sum()
    total.backward()
    missing = {name for name, value in detector.named_parameters() if value.grad is None}
    assert missing == {name for name, value in detector.named_parameters() if not value.requires_grad}
    assert all(name == "encoder.mask_token" or name.startswith("encoder.blocks.3.") for name in missing)


def test_a_new_detector_starts_at_its_anchors_and_at_the_prior() -> None:
    torch.manual_seed(0)
    detector = build_detector(SMALL).eval()
    with torch.inference_mode():
        output = detector(images64.float())
    assert output.proposals is not None
    torch.testing.assert_close(output.boxes, output.proposals.boxes)
    torch.testing.assert_close(output.boxes[..., 2:], torch.full_like(output.boxes[..., 2:], 0.05))
    assert detector.class_head.bias.sigmoid().tolist() == pytest.approx([0.01] * 6)
    for head in detector.proposer.groups:
        assert head.class_head.weight.equal(detector.class_head.weight)


@torch.inference_mode()
def test_with_too_few_tokens_the_last_queries_use_their_learned_boxes() -> None:
    detector = small_detector()
    boxes = detector._references(torch.rand(1, 16, 4, dtype=torch.float64), groups=1)
    assert boxes.shape == (1, SMALL.queries, 4)
    assert boxes[0, 16:].equal(detector.query_boxes[16 : SMALL.queries])


def test_a_frozen_encoder_gets_no_gradient_but_other_parameters_do() -> None:
    detector = build_detector(SMALL, freeze_encoder=True).train()
    detector(images64.float()).boxes.sum().backward()
    assert not any(value.requires_grad for value in detector.encoder.parameters())
    assert detector.projector.levels[0].norm.weight.grad is not None


@pytest.mark.parametrize("variant", ["pico", "seg-pico"])
@torch.inference_mode()
def test_pico_and_seg_pico_run(variant: str) -> None:
    architecture = VARIANTS[variant]
    detector: Detector = build_detector(architecture).eval()
    output = detector(random_images(1, 3, architecture.resolution, architecture.resolution))
    assert output.logits.shape == (1, architecture.queries, architecture.classes + 1)
    assert (output.masks is not None) == architecture.segmentation


def test_bfloat16_under_autocast_gives_every_parameter_its_gradient() -> None:
    detector = small_detector(SEGMENTER, torch.float32).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layers = layers_of(detector(images64.float()))
        total = sum(layer.logits.float().square().sum() + layer.boxes.square().sum() for layer in layers)
        total = total + sum(layer.masks.dense().square().sum() for layer in layers if layer.masks)
    total.backward()
    for name, value in detector.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        assert value.grad is None or value.grad.isfinite().all(), name


@ARCHITECTURES
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_checkpointing_keeps_less_memory_and_changes_no_bit(
    architecture: Architecture, autocast: bool
) -> None:
    kept, results = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        detector = build_detector(architecture, drop_path=0.5, gradient_checkpointing=checkpointing).train()
        bytes_of: dict[int, int] = {}

        def note(tensor: torch.Tensor, bytes_of: dict[int, int] = bytes_of) -> torch.Tensor:
            bytes_of[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                output = detector(images64.float())
            loss = sum(layer.logits.float().square().sum() + layer.boxes.float().sum() for layer in layers_of(output))
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        kept.append(sum(bytes_of.values()))
        results.append(
            [loss.detach(), *(parameter.grad for parameter in detector.parameters() if parameter.grad is not None)]
        )
    assert kept[1] < kept[0]
    assert all(plain.equal(recomputed) for plain, recomputed in zip(*results, strict=True))
