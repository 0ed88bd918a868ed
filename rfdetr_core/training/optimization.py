"""The optimiser, its learning rate over the steps, and classes that params.yaml names."""

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

    Raises:
        UserError: no such class, not one of `base`, or in no installed package and not in the project's own.
    """
    module, _, attribute = name.rpartition(".")
    check_class(name)
    try:
        loaded = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{option} {name} cannot be imported: {error}.") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise UserError(f"{option} {name} is no class for it.")
    return loaded


def installed_classes(config: TrainConfig) -> dict[str, dict[str, str | None]]:
    """The classes of installed packages that params.yaml names, by their key: module, package, version, file's SHA-256.

    Those of the project are not among them: the digests of code have their modules.
    """
    kinds: dict[str, Any] = {"optimizer": Optimizer, "lr_scheduler": (LRScheduler, ReduceLROnPlateau)}
    named = {key: str(getattr(config, key)) for key in CLASSES["train"]}
    classes: dict[str, dict[str, str | None]] = {}
    for key, name in named.items():
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


def make(option: str, name: str, base: type | tuple[type, ...], *arguments: Any, **keywords: Any) -> Any:
    """An instance of the class package.module.Class that an option names.

    Raises:
        UserError: see `load_class`; or it does not take the arguments.
    """
    loaded = load_class(option, name, base)
    try:
        return loaded(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UserError(f"{option} {name} does not take {option}_kwargs {keywords}: {error}.") from error


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
            embedding, part = name.startswith(_EMBEDDINGS), name.split(".")
            # Embeddings are at level 0, block i at i + 1, the final norm at the last.
            level = int(part[2]) + 1 if part[1] == "blocks" else (0 if embedding else levels)
            rate = config.lr_encoder * config.lr_vit_layer_decay ** (levels - level) * config.lr_component_decay**2
            decay = 0.0 if embedding or "norm" in name or name.endswith("bias") else decay
        elif name.startswith("decoder."):
            rate = config.lr * config.lr_component_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def build_schedule(optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int) -> dict[str, Any]:
    """The schedule that `lr_scheduler` names, as Lightning takes it; those of SCHEDULES follow from the step alone.

    Raises:
        UserError: a class that does not exist or does not take lr_scheduler_kwargs.
    """
    if "." not in config.lr_scheduler:
        numbers = {"epochs": config.epochs, "warmup_epochs": config.warmup_epochs, **config.lr_scheduler_kwargs}
        fixed: dict[str, Any] = {"kind": config.lr_scheduler, "steps_per_epoch": steps_per_epoch, **numbers}
        return {"scheduler": LambdaLR(optimizer, lambda step: learning_rate_factor(step, **fixed)), "interval": "step"}
    kinds, kwargs = (LRScheduler, ReduceLROnPlateau), config.lr_scheduler_kwargs
    scheduler = make("train.lr_scheduler", config.lr_scheduler, kinds, optimizer, **kwargs)
    if isinstance(scheduler, ReduceLROnPlateau):
        # Not strict: between evaluations there is no new value. The module checks that there ever is one.
        watched = {"monitor": config.lr_scheduler_monitor, "strict": False}
        return {"scheduler": scheduler, "interval": "epoch", **watched}
    if warmup := int(steps_per_epoch * config.warmup_epochs):
        growing = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup)
        scheduler = SequentialLR(optimizer, [growing, scheduler], [warmup])
    return {"scheduler": scheduler, "interval": config.lr_scheduler_interval}
