"""The Python API: a class for each variant, their configs, and Lightning's parts for custom training.

A user imports the names from `rfdetr_core` and `rfdetr_core.config`; this module finds the module that defines a name.
`model.py` has the model classes. Their methods predict, train, evaluate and export call the same functions as the
stages. `training.py` turns the keywords of `train` into a `Plan`: the checked settings of one training. `configs.py`
has the config classes for Python scripts. The next three files are for a training with a user's own Lightning
callbacks: `custom.py` has the LightningModule, the LightningDataModule and the Trainer, `callbacks.py` has the
callbacks of this project, and `preparation.py` checks configs and dataset before the training starts. `stubs.py`
generates `keywords.py` and the .pyi files for editors and mypy. Start reading at model.py.
"""

from __future__ import annotations

import importlib
from typing import Any

from rfdetr_core.model.config import VARIANTS

# The module that defines each public name of `rfdetr_core`.
NAMES_BY_MODULE = {
    "rfdetr_core.api.model": ("RFDETR", *(variant.name for variant in VARIANTS.values()), "from_checkpoint", "load"),
    "rfdetr_core.checkpoint.loading": ("COCO_CLASSES", "COCO_CLASS_NAMES"),
    "rfdetr_core.report.training": ("plot_metrics",),
    "rfdetr_core.api.custom": ("RFDETRDataModule", "RFDETRModelModule", "build_trainer"),
}
# The public names of `rfdetr_core.config`, each with the name of the class in rfdetr_core.api.configs.
CONFIGS = {
    "ModelConfig": "VariantConfig",
    "SegmentationTrainConfig": "ScriptTrainConfig",
    "TrainConfig": "ScriptTrainConfig",
} | {f"{variant.name}Config": f"{variant.name}Config" for variant in VARIANTS.values()}
NAMES = sorted(name for names in NAMES_BY_MODULE.values() for name in names)


def load_public_name(name: str) -> Any:
    """Import a public name of `rfdetr_core`. `__all__` gives the list of names.

    Raises:
        ImportError: a public name of upstream that does not exist here or is in another module. The message says which.
            `hasattr` raises it, too.
        AttributeError: any other unknown name.
    """
    if name == "__all__":
        return NAMES
    for module, names in NAMES_BY_MODULE.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise missing_name_error("rfdetr_core", name)


def load_public_config(name: str) -> Any:
    """As `load_public_name`, for `rfdetr_core.config`."""
    if name == "__all__":
        return sorted(CONFIGS)
    if name not in CONFIGS:
        raise missing_name_error("rfdetr_core.config", name)
    return getattr(importlib.import_module("rfdetr_core.api.configs"), CONFIGS[name])


def missing_name_error(module: str, name: str) -> Exception:
    """The exception for a name that a module does not have. It is an ImportError for a public name of upstream.

    `from module import name` would hide the message of an AttributeError. Python does not allow a class that is both an
    ImportError and an AttributeError.
    """
    message: str | None = importlib.import_module("rfdetr_core.config.upstream_answers").missing_name(name)
    return ImportError(message) if message else AttributeError(f"module {module!r} has no attribute {name!r}")
