"""The terms of the loss. Each term is a function and a row of `TERMS`.

The row also creates the option in the section `train` of params.yaml, its line in docs/parameters.md, its part of the
total, and the columns train/<name> and train/<name>_aux of history.csv. In shapes, P is the number of matched pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

# TrainConfig reads this table, and torch takes seconds to import, so the functions import torch themselves.
if TYPE_CHECKING:
    from torch import Tensor

    from rfdetr_core.loss.matcher import Matched


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    name: in `Losses.terms` and, after train/, in history.csv. Layers append _<number> or _enc to it.
    coefficient: the option with its weight. With weight 0 it is not computed and has no column in history.csv.
    function: computes the sum over a layer. The criterion divides it by the number of objects.
    default: the weight if params.yaml has none: upstream's, or 0 if upstream has no such term.
    description: completes the sentence "weight of the .." in docs/parameters.md.
    mask: the term compares masks, so only segmenters have it.
    """

    name: str
    coefficient: str
    function: Callable[[Matched], Tensor]
    default: float
    description: str
    mask: bool = False


def loss_ce(matched: Matched) -> Tensor:
    """IoU-aware binary cross-entropy of all logits: see `classification_loss`."""
    from rfdetr_core.loss.formulas import classification_loss

    iou, _ = matched.overlap
    return classification_loss(matched.layer.logits, matched.place, iou.detach(), matched.config.focal_alpha)


def loss_bbox(matched: Matched) -> Tensor:
    """L1 distance of the boxes (P, 4), cxcywh relative to the image."""
    return (matched.predicted_boxes - matched.target_boxes).abs().sum()


def loss_giou(matched: Matched) -> Tensor:
    """1 - generalised IoU (https://giou.stanford.edu) of the boxes (P, 4)."""
    _, giou = matched.overlap
    return (1 - giou).sum()


def loss_mask_ce(matched: Matched) -> Tensor:
    """Binary cross-entropy of the masks, as mean over their sampled points."""
    import torch.nn.functional as F

    logits, truth = matched.mask_samples
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()


def loss_mask_dice(matched: Matched) -> Tensor:
    """Dice loss of the masks at their sampled points: 1 - (2 |p t| + 1) / (|p| + |t| + 1)."""
    logits, truth = matched.mask_samples
    probability = logits.sigmoid()
    shared, total = (probability * truth).sum(1), probability.sum(1) + truth.sum(1)
    return (1 - (2 * shared + 1) / (total + 1)).sum()


# The rows are in the order of the sum, of the options in params.yaml, and of the columns in history.csv. Add a new row
# at the end.
TERMS = (
    Term("loss_ce", "cls_loss_coef", loss_ce, default=1.0, description="class loss"),
    Term("loss_bbox", "bbox_loss_coef", loss_bbox, default=5.0, description="L1 box loss"),
    Term("loss_giou", "giou_loss_coef", loss_giou, default=2.0, description="GIoU loss"),
    Term("loss_mask_ce", "mask_ce_loss_coef", loss_mask_ce, default=5.0, description="mask cross-entropy", mask=True),
    Term("loss_mask_dice", "mask_dice_loss_coef", loss_mask_dice, default=5.0, description="mask Dice loss", mask=True),
)


@dataclass(frozen=True)
class LossConfig:
    """The numbers of the loss and of matching, with upstream's names and values.

    weights: of all terms, by coefficient. Matching uses those of masks for its mask costs too, as upstream does.
    mask_point_sample_ratio: a mask of h x w logits is compared at h w / ratio points.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {term.coefficient: term.default for term in TERMS})
    mask_point_sample_ratio: int = 16
    set_cost_class: float = 2.0
    set_cost_bbox: float = 5.0
    set_cost_giou: float = 2.0
    focal_alpha: float = 0.25

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> LossConfig:
        """Read the numbers from the options of a training. A missing option has its default."""
        weights = {name: options.get(name, default) for name, default in cls().weights.items()}
        return cls(weights, options.get("mask_point_sample_ratio", cls.mask_point_sample_ratio))

    def weighted_terms(self, masks: bool) -> list[tuple[Term, float]]:
        """The terms with their weights. masks: whether the output has masks."""
        return [(term, self.weights[term.coefficient]) for term in TERMS if masks or not term.mask]
