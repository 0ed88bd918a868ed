from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.ops import sampling
from rfdetr_core.ops.sampling import gather_samples, multiply_to_size, resize_maps, sample_maps
from rfdetr_core.ops.structures import Target
from tests.small import SMALL, random_images, small_detector

SEGMENTER = replace(SMALL, segmentation=True)
ARCHITECTURES = pytest.mark.parametrize("architecture", [SMALL, SEGMENTER], ids=["detector", "segmenter"])


def maps_and_grid(dtype: torch.dtype = torch.float64, side: float = 1.3) -> tuple[Tensor, Tensor]:
    """Maps (2, 3, 5, 7) and places (2, 4, 6, 2), some of them beyond the edges."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    grid = (torch.rand(2, 4, 6, 2, generator=generator, dtype=torch.float64) * 2 - 1) * side
    return maps.to(dtype).requires_grad_(), grid.to(dtype).requires_grad_()


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gathered_samples_and_their_gradients_are_those_of_torch(dtype: torch.dtype, border: bool) -> None:
    maps, grid = maps_and_grid(dtype)
    outer = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    answers = []
    for values in (gather_samples(maps, grid, border=border), sample_maps(maps, grid, border=border)):
        answers.append((values, *torch.autograd.grad(values, (maps, grid), outer)))
    for first, other in zip(*answers, strict=True):
        torch.testing.assert_close(first, other)


@pytest.mark.parametrize("border", [False, True])
def test_gathered_samples_pass_the_numeric_check_of_gradients(border: bool) -> None:
    assert torch.autograd.gradcheck(lambda *inputs: gather_samples(*inputs, border=border), maps_and_grid())


def test_gradients_are_the_same_however_many_maps_are_summed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, grid = maps_and_grid()
    (together,) = torch.autograd.grad(gather_samples(maps, grid).sum(), maps)
    monkeypatch.setattr(sampling, "_SPREAD_BYTES", 1)
    (alone,) = torch.autograd.grad(gather_samples(maps, grid).sum(), maps)
    torch.testing.assert_close(alone, together, rtol=1e-14, atol=1e-14)


def test_a_place_at_infinity_gives_no_gradient_to_the_maps() -> None:
    places = torch.tensor([[torch.inf, 0], [-torch.inf, 0], [torch.nan, 0], [1e30, -1e30]])[None, None]
    maps = torch.ones(1, 1, 2, 2, requires_grad=True)
    gather_samples(maps, places).sum().backward()
    assert maps.grad is not None
    assert not maps.grad.any()


def test_samples_come_in_the_wider_precision() -> None:
    maps, grid = maps_and_grid(torch.float32)
    coarse = maps.detach().bfloat16()
    torch.testing.assert_close(gather_samples(coarse, grid), sample_maps(coarse.float(), grid))
    with torch.autocast("cpu", torch.bfloat16):
        assert gather_samples(coarse, grid).dtype == sample_maps(coarse, grid).dtype == torch.float32


def test_a_place_at_infinity_does_not_give_an_index_out_of_range() -> None:
    places = torch.tensor([[torch.inf, 0], [-torch.inf, 0], [torch.nan, 0], [1e30, -1e30]])[None, None]
    assert gather_samples(torch.ones(1, 1, 2, 2), places).shape == (1, 1, 1, 4)


SIZES = [((8, 8), (5, 11)), ((37, 37), (24, 24)), ((6, 9), (12, 18)), ((4, 4), (4, 4))]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize(("kernel", "antialias"), [("bilinear", False), ("bicubic", True), ("bicubic", False)])
def test_a_product_of_matrices_resizes_as_torch(before: Any, after: Any, kernel: Any, antialias: bool) -> None:
    maps = torch.randn(2, 3, *before, dtype=torch.float64, requires_grad=True)
    outer = torch.randn(2, 3, *after, dtype=torch.float64)
    answers = []
    for resize in (multiply_to_size, resize_maps):
        values = resize(maps, after, kernel=kernel, antialias=antialias)
        answers.append((values, *torch.autograd.grad(values, maps, outer)))
    # torch computes the weights of antialiasing in float32.
    for first, other in zip(*answers, strict=True):
        torch.testing.assert_close(first, other, rtol=0, atol=1e-5 if antialias else 1e-12)
    single = maps.detach().float()
    torch.testing.assert_close(
        multiply_to_size(single, after, kernel=kernel, antialias=antialias),
        resize_maps(single, after, kernel=kernel, antialias=antialias),
        rtol=0,
        atol=1e-5,
    )


def test_resizing_passes_the_numeric_check_of_gradients() -> None:
    maps = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: multiply_to_size(x, (7, 3), kernel="bicubic", antialias=True), maps)


def test_autocast_does_not_make_resizing_coarse() -> None:
    maps = torch.randn(1, 2, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(multiply_to_size(maps, (8, 8)), resize_maps(maps, (8, 8)))


@pytest.mark.parametrize(("device", "strict"), [("cuda", True), ("cuda", False), ("cpu", True), ("mps", True)])
def test_samples_are_gathered_only_for_deterministic_algorithms_and_not_on_the_cpu(device: str, strict: bool) -> None:
    try:
        torch.use_deterministic_algorithms(strict)
        assert sampling._forbidden_on(torch.device(device)) == (strict and device != "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


def step(architecture: Any, images: Tensor, autocast: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of a small detector. The images have another size than its position embeddings."""
    dtype, device = images.dtype, images.device
    detector = small_detector(architecture, dtype).to(device).train()
    generator = torch.Generator().manual_seed(0)
    targets = []
    for count in (3, 2):
        boxes = torch.rand(count, 4, generator=generator, dtype=dtype) * 0.3 + 0.3
        masks = torch.rand(count, *images.shape[-2:], generator=generator) > 0.5
        targets.append(Target(torch.arange(count), boxes, masks).to(device))
    with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
        output = detector(images)
    loss = Criterion()(output, targets, groups=architecture.groups, point_seed=0).total
    loss.backward()
    return loss.detach(), {
        name: parameter.grad for name, parameter in detector.named_parameters() if parameter.grad is not None
    }


@ARCHITECTURES
def test_training_by_gathering_is_training_by_torchs_kernels(
    architecture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(2, 3, 96, 96, dtype=torch.float64)
    loss, gradients = step(architecture, images)
    monkeypatch.setattr(sampling, "_forbidden_on", lambda device: True)
    gathered_loss, gathered = step(architecture, images)
    torch.testing.assert_close(gathered_loss, loss, rtol=1e-7, atol=0)
    # The positions are resized in float32.
    torch.testing.assert_close(gathered, gradients, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@ARCHITECTURES
def test_strict_training_on_cuda_repeats_every_bit_and_is_not_refused(architecture: Any, autocast: Any) -> None:
    images = random_images(2, 3, 96, 96).cuda()
    try:
        torch.use_deterministic_algorithms(True)
        (loss, gradients), (again, repeated) = (step(architecture, images, autocast) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    assert loss.equal(again)
    assert not [name for name, gradient in gradients.items() if not gradient.equal(repeated[name])]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@ARCHITECTURES
def test_strict_training_on_cuda_equals_the_fast_one_except_for_rounding(architecture: Any) -> None:
    images = random_images(2, 3, 96, 96, dtype=torch.float64).cuda()
    loss, gradients = step(architecture, images)
    try:
        torch.use_deterministic_algorithms(True)
        strict_loss, strict = step(architecture, images)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(strict_loss, loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(strict, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@ARCHITECTURES
def test_a_step_waits_for_the_device_once_for_matching(architecture: Any) -> None:
    images = random_images(2, 3, 64, 64).cuda()
    step(architecture, images)  # the first one prepares kernels
    detector = small_detector(architecture, torch.float32).cuda().train()
    targets = [Target(torch.arange(2), torch.rand(2, 4), torch.ones(2, 64, 64, dtype=torch.bool)).to("cuda")] * 2
    try:
        torch.cuda.set_sync_debug_mode("error")
        output = detector(images)
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loss = Criterion()(output, targets, groups=architecture.groups, point_seed=0).total
        torch.cuda.set_sync_debug_mode("error")
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([warning for warning in caught if "synchroniz" in str(warning.message)]) == 1
