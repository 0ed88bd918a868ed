"""The optimiser, with upstream's learning rate and weight decay for every parameter, known by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rfdetr_core.training.named import make

_EMBEDDINGS = ("encoder.cls_token", "encoder.mask_token", "encoder.position_embeddings", "encoder.patch_projection")


def build_optimizer(
    detector: nn.Module,
    *,
    lr: float,
    lr_encoder: float,
    weight_decay: float,
    vit_layer_decay: float,
    component_decay: float,
    name: str = "adamw",
    options: Mapping[str, Any] | None = None,
    fused: bool = False,
) -> Optimizer:
    """An optimiser of torch.optim, or a class by its path, over `parameter_groups`; `options` are its own arguments.

    fused: torch's one-kernel step of AdamW, which no GradScaler (16-mixed) may drive.

    Raises:
        UserError: a class that does not exist or does not take the options.
    """
    groups = parameter_groups(
        detector,
        lr=lr,
        lr_encoder=lr_encoder,
        weight_decay=weight_decay,
        vit_layer_decay=vit_layer_decay,
        component_decay=component_decay,
    )
    if "." not in name:
        classes = {one.lower(): one for one in vars(torch.optim) if one[0].isupper()}
        name = f"torch.optim.{classes[name]}"
    keywords = dict(options or {}) | ({"fused": True} if fused else {})
    made: Optimizer = make("train.optimizer", name, Optimizer, groups, **keywords)
    return made


def parameter_groups(
    detector: nn.Module,
    *,
    lr: float,
    lr_encoder: float,
    weight_decay: float,
    vit_layer_decay: float,
    component_decay: float,
) -> list[dict[str, Any]]:
    """The parameters that are trained, (name, parameter) pairs in groups of one `lr` and `weight_decay`.

    The encoder's rate falls with the distance from its end and by component_decay^2, the decoder's by component_decay.
    In the encoder, embeddings, norms and biases are not decayed (its layer scales are); elsewhere everything is. After
    upstream's training/param_groups.py and models/backbone/backbone.py.
    """
    features: tuple[int, ...] = cast(Any, detector.get_submodule("encoder")).feature_indexes
    # Upstream counts one level more than the blocks that run, so the last block is two steps from the end.
    levels = features[-1] + 2
    groups: dict[tuple[float, float], list[tuple[str, Tensor]]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = lr, weight_decay
        if name.startswith("encoder."):
            rate = lr_encoder * vit_layer_decay ** (levels - _encoder_level(name, levels)) * component_decay**2
            decay = 0.0 if name.startswith(_EMBEDDINGS) or "norm" in name or name.endswith("bias") else weight_decay
        elif name.startswith("decoder."):
            rate = lr * component_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _encoder_level(name: str, last: int) -> int:
    """0 for the embeddings, i + 1 for block i, `last` for the final norm."""
    if name.startswith(_EMBEDDINGS):
        return 0
    part = name.split(".")
    return int(part[2]) + 1 if part[1] == "blocks" else last
