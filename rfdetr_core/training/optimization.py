"""The optimiser, its learning rate over the steps, and classes that params.yaml names."""

from __future__ import annotations

import importlib
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from rfdetr_core.base.errors import UserError
from rfdetr_core.training.config import SCHEDULE_NUMBERS, TrainConfig


def make(option: str, name: str, base: type | tuple[type, ...], *arguments: Any, **keywords: Any) -> Any:
    """An instance of the class package.module.Class that an option names.

    Raises:
        UserError: no such class, not one of `base`, or it does not take the arguments.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{option} {name} cannot be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{option} {name} is no class for it.")
    try:
        return found(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"{option} {name} does not take {option}_kwargs {keywords}: {error}.") from error


_EMBEDDINGS = ("encoder.cls_token", "encoder.mask_token", "encoder.position_embeddings", "encoder.patch_projection")


def build_optimizer(detector: nn.Module, config: TrainConfig, *, fused: bool = False) -> Optimizer:
    """An optimiser of torch.optim, or a class by its path, over `parameter_groups`.

    fused: torch's one-kernel step of AdamW, which no GradScaler (16-mixed) may drive.

    Raises:
        UserError: a class that does not exist or does not take optimizer_kwargs.
    """
    name = config.optimizer
    if "." not in name:
        classes = {one.lower(): one for one in vars(torch.optim) if one[0].isupper()}
        name = f"torch.optim.{classes[name]}"
    keywords = config.optimizer_kwargs | ({"fused": True} if fused else {})
    made: Optimizer = make("train.optimizer", name, Optimizer, parameter_groups(detector, config), **keywords)
    return made


def parameter_groups(detector: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The parameters that are trained, (name, parameter) pairs in groups of one `lr` and `weight_decay`.

    The encoder's rate falls with the distance from its end and by lr_component_decay^2, the decoder's by
    lr_component_decay. In the encoder, embeddings, norms and biases are not decayed (its layer scales are); elsewhere
    everything is. After upstream's training/param_groups.py and models/backbone/backbone.py.
    """
    features: tuple[int, ...] = cast(Any, detector.get_submodule("encoder")).feature_indexes
    # Upstream counts one level more than the blocks that run, so the last block is two steps from the end.
    levels = features[-1] + 2
    groups: dict[tuple[float, float], list[tuple[str, Tensor]]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = config.lr, config.weight_decay
        if name.startswith("encoder."):
            depth = levels - _encoder_level(name, levels)
            rate = config.lr_encoder * config.lr_vit_layer_decay**depth * config.lr_component_decay**2
            decay = 0.0 if name.startswith(_EMBEDDINGS) or "norm" in name or name.endswith("bias") else decay
        elif name.startswith("decoder."):
            rate = config.lr * config.lr_component_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _encoder_level(name: str, last: int) -> int:
    """0 for the embeddings, i + 1 for block i, `last` for the final norm."""
    if name.startswith(_EMBEDDINGS):
        return 0
    part = name.split(".")
    return int(part[2]) + 1 if part[1] == "blocks" else last


def build_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The schedule that `lr_scheduler` names, as Lightning takes it; step and cosine are functions of the step alone.

    Raises:
        UserError: a class that does not exist or does not take lr_scheduler_kwargs.
    """
    if "." not in config.lr_scheduler:
        numbers: dict[str, Any] = SCHEDULE_NUMBERS | config.lr_scheduler_kwargs

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                kind=config.lr_scheduler,
                steps_per_epoch=steps_per_epoch,
                epochs=config.epochs,
                warmup_epochs=config.warmup_epochs,
                **numbers,
            )

        return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
    kinds, kwargs = (LRScheduler, ReduceLROnPlateau), config.lr_scheduler_kwargs
    scheduler = make("train.lr_scheduler", config.lr_scheduler, kinds, optimizer, **kwargs)
    if isinstance(scheduler, ReduceLROnPlateau):
        # Not strict: between evaluations there is no new value. The module checks that there ever is one.
        return {
            "scheduler": scheduler, "interval": "epoch", "monitor": config.lr_scheduler_monitor, "strict": False
        }  # fmt: skip
    warmup = int(steps_per_epoch * config.warmup_epochs)
    if warmup:
        growing = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [growing, scheduler], [warmup])
    return {"scheduler": scheduler, "interval": config.lr_scheduler_interval}


def learning_rate_factor(
    step: int,
    *,
    kind: str,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float = 0.0,
    lr_drop: float = 100,
    min_factor: float = 0.0,
) -> float:
    """What to multiply the learning rate with at optimiser step `step`, counted from 0.

    Grows linearly from 0 over the warm-up. Then "step" is 1, and 0.1 from epoch `lr_drop` on; "cosine" falls in half a
    period to `min_factor` at the end. After upstream's training/module_model.py.
    """
    warmup = int(steps_per_epoch * warmup_epochs)
    if step < warmup:
        return step / warmup
    if kind == "step":
        return 1.0 if step < lr_drop * steps_per_epoch else 0.1
    progress = (step - warmup) / max(1, steps_per_epoch * epochs - warmup)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))
