"""The optimiser, its learning-rate schedule, and the classes for them that params.yaml can name."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from rfdetr_core.base import files
from rfdetr_core.base.code import CLASSES, Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import check_class, module_file
from rfdetr_core.training.config import OPTIMIZERS, TrainConfig
from rfdetr_core.training.schedule import learning_rate_factor

_EMBEDDINGS = ("encoder.cls_token", "encoder.mask_token", "encoder.position_embeddings", "encoder.patch_projection")


def load_class(option: str, name: str, base: type | tuple[type, ...]) -> type:
    """The class package.module.Class that an option names.

    Args:
        option: key of params.yaml, for messages.
        name: package.module.Class.
        base: the class must be a subclass of it.

    Raises:
        UserError: there is no such class, it is not a subclass of `base`, or it is neither in an installed package nor
            in rfdetr_core.
    """
    module, _, attribute = name.rpartition(".")
    check_class(name)
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{option} {name} cannot be imported: {error}.") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UserError(f"{option} {name} is not a class of the right kind.")
    return loaded


def installed_classes(config: TrainConfig) -> dict[str, dict[str, str | None]]:
    """The classes of installed packages that params.yaml names: module, package, version and SHA-256 of the file.

    Classes of the project are not included: the digests of code have their modules. The keys are those of params.yaml.
    """
    kinds: dict[str, Any] = {"optimizer": Optimizer, "lr_scheduler": (LRScheduler, ReduceLROnPlateau)}
    names = {key: str(getattr(config, key)) for key in CLASSES["train"]}
    classes: dict[str, dict[str, str | None]] = {}
    for key, name in names.items():
        if "." in name and name.rpartition(".")[0] not in Code().modules:
            module = load_class(f"train.{key}", name, kinds[key]).__module__
            package = next(iter(metadata.packages_distributions().get(module.partition(".")[0], ())), None)
            file = module_file(module)
            classes[key] = {
                "module": module,
                "package": package,
                "version": metadata.version(package) if package else None,
                "sha256": files.sha256_file(file) if file else None,
            }
    return classes


def instantiate(option: str, name: str, base: type | tuple[type, ...], *arguments: Any, **keywords: Any) -> Any:
    """An instance of the class package.module.Class that an option names.

    Args:
        option, name, base: see `load_class`.
        arguments, keywords: for the class.

    Raises:
        UserError: see `load_class`; or the class does not take the arguments.
    """
    loaded = load_class(option, name, base)
    try:
        return loaded(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"{option} {name} does not take {option}_kwargs {keywords}: {error}.") from error


def build_optimizer(detector: nn.Module, config: TrainConfig, *, fused: bool = False) -> Optimizer:
    """The optimiser that `train.optimizer` names, over `parameter_groups`.

    Args:
        detector: the network.
        config: the section `train`.
        fused: use torch's fused AdamW, which runs in one kernel. It does not work with a GradScaler (16-mixed).

    Raises:
        UserError: the class does not exist or does not take optimizer_kwargs.
    """
    keywords = config.optimizer_kwargs | ({"fused": True} if fused else {})
    path, groups = OPTIMIZERS.get(config.optimizer, config.optimizer), parameter_groups(detector, config)
    optimizer: Optimizer = instantiate("train.optimizer", path, Optimizer, groups, **keywords)
    return optimizer


def parameter_groups(detector: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """The trained parameters as (name, parameter) pairs, in groups with one `lr` and one `weight_decay`.

    Learning rates, with c = lr_component_decay, d = lr_vit_layer_decay, and n trained encoder blocks:
    - encoder, block i (from 0): lr_encoder * c^2 * d^(n + 1 - i)
    - encoder, embeddings: lr_encoder * c^2 * d^(n + 2)
    - encoder, final norm: lr_encoder * c^2
    - decoder: lr * c
    - all other parameters: lr

    In the encoder, embeddings, norms and biases have no weight decay, but layer scales do. Outside of the encoder,
    every parameter has weight decay. After upstream's training/param_groups.py and models/backbone/backbone.py.
    """
    features: tuple[int, ...] = cast(Any, detector.get_submodule("encoder")).feature_indexes
    # n + 2: the embeddings are level 0, the blocks are levels 1 to n, and the final norm is level n + 2. As in
    # upstream, level n + 1 is not used. So even the rate of the last block has the factor d^2.
    levels = features[-1] + 2
    groups: dict[tuple[float, float], list[tuple[str, Tensor]]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        rate, decay = config.lr, config.weight_decay
        if name.startswith("encoder."):
            embedding, part = name.startswith(_EMBEDDINGS), name.split(".")
            level = int(part[2]) + 1 if part[1] == "blocks" else (0 if embedding else levels)
            rate = config.lr_encoder * config.lr_vit_layer_decay ** (levels - level) * config.lr_component_decay**2
            decay = 0.0 if embedding or "norm" in name or name.endswith("bias") else decay
        elif name.startswith("decoder."):
            rate = config.lr * config.lr_component_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The schedule that `train.lr_scheduler` names, as Lightning takes it.

    Args:
        optimizer: its learning rates are scheduled.
        config: the section `train`.
        steps_per_epoch: optimiser steps in an epoch.

    Raises:
        UserError: the class does not exist or does not take lr_scheduler_kwargs.
    """
    if "." not in config.lr_scheduler:
        numbers = {"epochs": config.epochs, "warmup_epochs": config.warmup_epochs, **config.lr_scheduler_kwargs}
        fixed: dict[str, Any] = {"kind": config.lr_scheduler, "steps_per_epoch": steps_per_epoch, **numbers}
        return {"scheduler": LambdaLR(optimizer, lambda step: learning_rate_factor(step, **fixed)), "interval": "step"}
    kinds, kwargs = (LRScheduler, ReduceLROnPlateau), config.lr_scheduler_kwargs
    scheduler = instantiate("train.lr_scheduler", config.lr_scheduler, kinds, optimizer, **kwargs)
    if isinstance(scheduler, ReduceLROnPlateau):
        # Not strict: epochs without evaluation have no value. The module checks that an evaluated epoch has it.
        watched = {"monitor": config.lr_scheduler_monitor, "strict": False}
        return {"scheduler": scheduler, "interval": "epoch", **watched}
    if warmup := int(steps_per_epoch * config.warmup_epochs):
        growing = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [growing, scheduler], [warmup])
    return {"scheduler": scheduler, "interval": config.lr_scheduler_interval}
