"""RF-DETR from Python: the classes, their configs, the custom training API. `rfdetr_core` has the public names."""

from __future__ import annotations

import importlib
from typing import Any

from rfdetr_core.model.config import VARIANTS

# The public names, by the module that defines them.
NAMES_BY_MODULE = {
    "rfdetr_core.api.model": ("RFDETR", *(variant.name for variant in VARIANTS.values()), "from_checkpoint", "load"),
    "rfdetr_core.checkpoint.loading": ("COCO_CLASSES", "COCO_CLASS_NAMES"),
    "rfdetr_core.report.training": ("plot_metrics",),
    "rfdetr_core.api.custom": ("RFDETRDataModule", "RFDETRModelModule", "build_trainer"),
}
# The public names of `rfdetr_core.config`, with those of the same classes in rfdetr_core.api.configs.
CONFIGS = {
    "ModelConfig": "VariantConfig",
    "SegmentationTrainConfig": "ScriptTrainConfig",
    "TrainConfig": "ScriptTrainConfig",
} | {f"{variant.name}Config": f"{variant.name}Config" for variant in VARIANTS.values()}
NAMES = sorted(name for names in NAMES_BY_MODULE.values() for name in names)


def load_public_name(name: str) -> Any:
    """What a public name of `rfdetr_core` stands for; `__all__`: the names.

    Raises:
        ImportError: a name of upstream's that is not here, or in another place; the message says which. `hasattr`
            raises it, too.
        AttributeError: any other name.
    """
    if name == "__all__":
        return NAMES
    for module, names in NAMES_BY_MODULE.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise missing_name_error("rfdetr_core", name)


def load_public_config(name: str) -> Any:
    """As `load_public_name`, of `rfdetr_core.config`."""
    if name == "__all__":
        return sorted(CONFIGS)
    if name not in CONFIGS:
        raise missing_name_error("rfdetr_core.config", name)
    return getattr(importlib.import_module("rfdetr_core.api.configs"), CONFIGS[name])


def missing_name_error(module: str, name: str) -> Exception:
    """What to raise for a name that a module does not have: an ImportError where it is a public name of upstream.

    `from module import name` would hide the message of an AttributeError, and no class can be both.
    """
    message: str | None = importlib.import_module("rfdetr_core.config.upstream_answers").missing_name(name)
    return ImportError(message) if message else AttributeError(f"module {module!r} has no attribute {name!r}")
