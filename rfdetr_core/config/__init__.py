"""The whole of params.yaml: checked, documented, and previewed; and the configs of the Python API, when first used."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """A config of the Python API, such as RFDETRNanoConfig or TrainConfig; `__all__` are their names."""
    if not name.endswith("Config") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # or a module of the package
    return importlib.import_module("rfdetr_core.api").public_config(name)
