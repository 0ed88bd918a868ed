"""Checks on a CPU of a CUDA step: no tensor is on the wrong device, and only the matching waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rfdetr_core.data.batching import Batch, resize_to_drawn_size
from rfdetr_core.data.samples import Sample
from rfdetr_core.loss import formulas
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.ops.structures import Target
from rfdetr_core.training.callbacks import WeightAverage
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.nonfinite import Step, Watch
from rfdetr_core.training.optimization import build_optimizer
from tests.fake_cuda import backward, empty_like, fake_cuda, to_fake_cuda
from tests.small import SMALL

pytestmark = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="this torch knows nothing of CUDA")
SEGMENTER = replace(SMALL, segmentation=True)
ARCHITECTURES = pytest.mark.parametrize("architecture", [SMALL, SEGMENTER], ids=["detector", "segmenter"])
SIZES = pytest.mark.parametrize("side", [64, 96])
PADDED = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


@pytest.fixture(params=[False, True], ids=["fast", "deterministic"], autouse=True)
def algorithms(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_deterministic_debug_mode()
    try:
        torch.use_deterministic_algorithms(request.param)
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace costs on the host by zeros, and draw points without a generator, which would need a device."""
    monkeypatch.setattr(Tensor, "numpy", lambda costs: np.zeros(tuple(costs.shape), dtype=np.float32))
    monkeypatch.setattr(torch, "Generator", lambda device: SimpleNamespace(manual_seed=lambda seed: device))
    monkeypatch.setattr(
        formulas,
        "random_points",
        lambda masks, count, dtype, device: torch.rand(masks, count, 2, dtype=dtype, device=device),
    )


def fake_detector(architecture: Any, **options: Any) -> Detector:
    """Build a detector outside of the fake tensors, since its initial weights need real numbers; then make it fake."""
    with torch.utils._python_dispatch._disable_current_modes():
        detector = build_detector(architecture, **options)
    to_fake_cuda(detector)
    return detector


def inputs(side: int, padded: bool) -> tuple[Tensor, Tensor | None]:
    padding = torch.zeros(2, side, side, dtype=torch.bool, device="cuda") if padded else None
    return torch.empty(2, 3, side, side, device="cuda"), padding


def targets(side: int) -> list[Target]:
    result = []
    for count in (3, 0):
        masks = torch.empty(count, side, side, dtype=torch.bool, device="cuda")
        labels = torch.empty(count, dtype=torch.int64, device="cuda")
        result.append(Target(labels, torch.empty(count, 4, device="cuda"), masks))
    return result


@PADDED
@SIZES
@ARCHITECTURES
def test_evaluation_copies_nothing(architecture: Any, side: int, padded: bool) -> None:
    with fake_cuda() as watched, torch.no_grad():
        output = fake_detector(architecture).eval()(*inputs(side, padded))
        assert output.boxes.device.type == "cuda"
        assert not watched.copies


@PADDED
@ARCHITECTURES
def test_detections_are_copied_to_the_host_once_and_masks_image_by_image(architecture: Any, padded: bool) -> None:
    with fake_cuda() as watched, torch.no_grad():
        output = fake_detector(architecture).eval()(*inputs(64, padded))
        detections = list(postprocess(output, [(37, 53), (20, 30)], architecture.queries))
        assert {tensor.device.type for two in detections for tensor in (two.scores, two.labels, two.boxes)} == {"cpu"}
        masks = [of_image.masks for of_image in detections if of_image.masks is not None]
        assert [mask.shape[1:] for mask in masks] == ([(37, 53), (20, 30)] if architecture.segmentation else [])
        assert sum(copy.to == "cpu" for copy in watched.copies) == 3 + len(masks)


@PADDED
@SIZES
@ARCHITECTURES
@pytest.mark.usefixtures("host")
def test_a_step_waits_for_the_device_only_in_matching(architecture: Any, side: int, padded: bool) -> None:
    with fake_cuda() as watched:
        detector = fake_detector(architecture).train()
        output = detector(*inputs(side, padded))
        assert not watched.copies
        losses = Criterion()(output, targets(side), groups=architecture.groups, point_seed=0)
        assert [(copy.to, "costs" in copy.line) for copy in watched.waits] == [("cpu", True)], watched.waits
        watched.copies.clear()
        gradients = backward(losses.total)
        assert not watched.copies
        assert gradients.keys() == {parameter for parameter in detector.parameters() if parameter.requires_grad}
        assert {(gradient.device, gradient.shape == leaf.shape) for leaf, gradient in gradients.items()} == {
            (losses.total.device, True)
        }


@pytest.mark.usefixtures("host")
def test_the_optimiser_step_does_not_wait_for_the_device() -> None:
    detector = build_detector(SMALL)
    average = WeightAverage(detector, 0.993, 100)
    with fake_cuda() as watched:
        to_fake_cuda(detector)
        to_fake_cuda(average.module)
        optimizer: Any = build_optimizer(detector, TrainConfig(), fused=True)
        watch, values = Watch(), torch.empty(3, device="cuda")
        for update in (1, 2):
            for parameter in detector.parameters():
                parameter.grad = empty_like(parameter) if parameter.requires_grad else None
            watch.check(values, Step(Batch(values, [], []), 0, (), values, update))
            watch.check(torch.nn.utils.clip_grad_norm_(detector.parameters(), 0.1))
            optimizer.found_inf = watch.bad
            optimizer.step()
            average.update(update)
        assert not watched.waits


@pytest.mark.parametrize("mode", ["per-batch", "per-sample"])
def test_a_batch_reaches_its_size_on_the_device_without_a_wait(mode: Any) -> None:
    samples: list[Any] = [Sample] * 2
    with fake_cuda() as watched:
        images = torch.empty(2, 3, 96, 96, dtype=torch.uint8)
        masks = torch.empty(3, 96, 96, dtype=torch.bool)
        target = Target(torch.empty(3, dtype=torch.int64), torch.empty(3, 4), masks)
        batch = Batch(images, [target, target], samples).to("cuda")
        assert watched.copies
        batch = batch.normalised()
        assert not watched.waits
        drawn = resize_to_drawn_size(batch, [64], mode, 0, epoch=0, step=0)
        assert drawn.images.shape == (2, 3, 64, 64)
        assert not watched.waits


FAULTS: dict[str, Callable[[Tensor], Any]] = {
    "a constant of the host": lambda images: images + torch.ones(96),
    "an index of the host": lambda images: images.index_select(0, torch.zeros(1, dtype=torch.int64)),
    "item": lambda images: images.sum().item(),
    "tolist": lambda images: images.sum().tolist(),
    "a condition": lambda images: 1 if images.sum() > 0 else 0,
    "nonzero": lambda images: images.nonzero(),
    "an index of booleans": lambda images: images[images > 0],
    "repeats by a tensor": lambda images: images.repeat_interleave(torch.ones(2, dtype=torch.int64, device="cuda"), 0),
}
COPIES: dict[str, Callable[[Tensor], Any]] = {
    "a tensor of numbers": lambda images: torch.tensor([1.0, 2.0], device="cuda"),
    "new_tensor": lambda images: images.new_tensor([1.0]),
    "a silent index of the host": lambda images: images[torch.zeros(1, dtype=torch.int64)],
    "a list as an index": lambda images: images[[0, 1]],
    "cpu": lambda images: images.cpu(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_operations_that_need_numbers_or_mix_devices_are_refused(fault: Callable[[Tensor], Any]) -> None:
    with fake_cuda(), pytest.raises((RuntimeError, TypeError), match=r"aten|device"):
        fault(torch.empty(2, 3, 96, 96, device="cuda"))


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_an_implicit_copy_of_torch_is_recorded(copy: Callable[[Tensor], Any]) -> None:
    with fake_cuda() as watched:
        copy(torch.empty(2, 3, 96, 96, device="cuda"))
    assert len(watched.waits) == 1


def test_a_tensor_from_before_the_block_is_refused() -> None:
    constant = torch.ones(96)
    with fake_cuda(), pytest.raises(Exception, match="convert all Tensors to FakeTensors"):
        torch.empty(96, device="cuda") + constant


@pytest.mark.parametrize("dtype", [torch.float64])
def test_backward_gives_the_gradients_of_autograd(dtype: torch.dtype) -> None:
    """Real tensors in a small graph with a node that is reached twice, a split and a Python function."""
    leaf, weight = (torch.randn(3, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    first, second = (leaf * weight).sigmoid().split(2, dim=1)
    place = (torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
    loss = formulas.classification_loss((first * second)[None], place, torch.ones(1, dtype=dtype), 0.25) + first.sum()
    gradients = backward(loss)
    expected = torch.autograd.grad(loss, (leaf, weight))
    torch.testing.assert_close((gradients[leaf], gradients[weight]), expected)
