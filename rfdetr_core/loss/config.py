"""The numbers of the loss, under upstream's names and with its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms and of the matching costs. The mask weights serve for both, as upstream's do."""

    cls_loss_coef: float = 1.0
    bbox_loss_coef: float = 5.0
    giou_loss_coef: float = 2.0
    mask_ce_loss_coef: float = 5.0
    mask_dice_loss_coef: float = 5.0
    set_cost_class: float = 2.0
    set_cost_bbox: float = 5.0
    set_cost_giou: float = 2.0
    focal_alpha: float = 0.25
    mask_point_sample_ratio: int = 16  # a mask of h x w logits is compared at h w / ratio points


def loss_config(values: Mapping[str, Any]) -> LossConfig:
    """The numbers of the loss among the parameters of a training."""
    return LossConfig(**{field.name: values[field.name] for field in fields(LossConfig) if field.name in values})
