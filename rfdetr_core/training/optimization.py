"""The optimiser, its learning rate over the steps, and classes that params.yaml names."""

from __future__ import annotations

import importlib
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from rfdetr_core.base.errors import UserError
from rfdetr_core.training.config import OPTIMIZERS, TrainConfig
from rfdetr_core.training.schedule import learning_rate_factor


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
    """An optimiser of OPTIMIZERS, or a class by its path, over `parameter_groups`.

    fused: torch's one-kernel step of AdamW, which no GradScaler (16-mixed) may drive.

    Raises:
        UserError: a class that does not exist or does not take optimizer_kwargs.
    """
    keywords = config.optimizer_kwargs | ({"fused": True} if fused else {})
    path, groups = OPTIMIZERS.get(config.optimizer, config.optimizer), parameter_groups(detector, config)
    made: Optimizer = make("train.optimizer", path, Optimizer, groups, **keywords)
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
    """The schedule that `lr_scheduler` names, as Lightning takes it; those of SCHEDULES follow from the step alone.

    Raises:
        UserError: a class that does not exist or does not take lr_scheduler_kwargs.
    """
    if "." not in config.lr_scheduler:
        numbers: dict[str, Any] = config.lr_scheduler_kwargs

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
