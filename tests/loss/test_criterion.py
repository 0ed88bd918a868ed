from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.loss.formulas import classification_loss
from rfdetr_core.loss.terms import TERMS, LossConfig
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors, Target
from tests.loss.synthetic import GROUPS, gradients, make_output, make_targets


@pytest.mark.parametrize("masks", [False, True])
def test_a_batch_without_objects_gives_zero_box_losses_that_reach_every_output(masks: bool) -> None:
    output = make_output(2, masks=masks)
    losses = Criterion()(output, make_targets([0, 0], masks=masks), groups=GROUPS, point_seed=0)
    for term, value in losses.terms.items():
        assert (value.item() > 0) == term.startswith("loss_ce")
    assert all(gradient.isfinite().all() for gradient in gradients(output, losses.total))


def test_in_a_batch_without_objects_every_parameter_has_a_gradient() -> None:
    architecture = replace(VARIANTS["seg-pico"], resolution=48, position_grid=4, queries=5, groups=2)
    detector = build_detector(architecture).train()
    targets = [Target(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), torch.zeros(0, 48, 48, dtype=torch.bool))]
    Criterion()(detector(torch.randn(1, 3, 48, 48)), targets, groups=2, point_seed=0).total.backward()
    unused = [name for name, value in detector.named_parameters() if value.requires_grad and value.grad is None]
    assert unused == []


def test_the_total_is_the_weighted_sum_of_the_terms() -> None:
    weights = {term: number for number, term in enumerate(TERMS, start=2)}
    config = LossConfig({term.coefficient: weight for term, weight in weights.items()})
    losses = Criterion(config)(make_output(2, masks=True), make_targets([3, 1], masks=True), groups=3, point_seed=1)
    ends = ("", "_0", "_1", "_enc")
    parts = [weight * losses.terms[term.name + end].item() for term, weight in weights.items() for end in ends]
    assert len(parts) == len(losses.terms)
    assert losses.total.item() == pytest.approx(sum(parts))


def test_the_points_depend_only_on_the_seed() -> None:
    output, targets = make_output(2, masks=True), make_targets([3, 1], masks=True)

    def terms(seed: int) -> dict[str, Tensor]:
        torch.rand(5)
        return Criterion()(output, targets, groups=GROUPS, point_seed=seed).terms

    first, again, other_seed = terms(1), terms(1), terms(2)
    assert all(first[name].equal(again[name]) for name in first)
    assert first["loss_mask_ce"] != other_seed["loss_mask_ce"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_scored_in_float32(dtype: torch.dtype) -> None:
    half, targets = make_output(2, masks=True, dtype=dtype), make_targets([3, 1], masks=True, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = Criterion()(half, targets, groups=GROUPS, point_seed=1)
    expected = Criterion()(as_float32(half), targets, groups=GROUPS, point_seed=1)
    assert losses.total.dtype == torch.float32
    assert losses.total.equal(expected.total)


def as_float32(output: DetectorOutput) -> DetectorOutput:
    masks = output.masks
    if isinstance(masks, MaskFactors):
        masks = MaskFactors(masks.pixels.float(), masks.queries.float(), masks.bias.float())
    auxiliary = tuple(as_float32(layer) for layer in output.auxiliary)
    proposals = None if output.proposals is None else as_float32(output.proposals)
    return DetectorOutput(output.logits.float(), output.boxes.float(), masks, auxiliary, proposals)


def test_the_written_out_gradient_is_the_derivative() -> None:
    logits = (torch.randn(2, 4, 3, dtype=torch.float64) * 4).requires_grad_()
    place = (torch.tensor([0, 1, 1]), torch.tensor([3, 0, 2]), torch.tensor([1, 2, 0]))
    iou = torch.tensor([0.9, 0.0, 0.4], dtype=torch.float64)
    # The target of a match depends on the logits but is a constant. With alpha 0 it does not depend on them.
    assert torch.autograd.gradcheck(lambda values: classification_loss(values, place, iou, 0.0), logits)


def test_masks_need_a_seed_and_targets() -> None:
    with pytest.raises(ValueError, match="point_seed"):
        Criterion()(make_output(1, masks=True), make_targets([1], masks=True), groups=GROUPS)
    with pytest.raises(ValueError, match="masks"):
        Criterion()(make_output(1, masks=True), make_targets([1]), groups=GROUPS, point_seed=1)


@pytest.mark.slow
def test_ranks_share_the_mean_number_of_objects(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    # Rank 0 has 5 objects, rank 1 has none: each divides by 2.5 objects per group.
    alone = Criterion()(make_output(2), make_targets([3, 2]), groups=GROUPS)
    assert ranks[0]["loss_bbox"] == pytest.approx(alone.terms["loss_bbox"].item() * 2)
    nothing = Criterion()(make_output(2), make_targets([0, 0]), groups=GROUPS)
    assert ranks[1]["loss_ce"] == pytest.approx(nothing.terms["loss_ce"].item() / (2.5 * GROUPS))


def one_rank(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    losses = Criterion()(make_output(2), make_targets([3, 2] if rank == 0 else [0, 0]), groups=GROUPS)
    torch.save({name: value.item() for name, value in losses.terms.items()}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
