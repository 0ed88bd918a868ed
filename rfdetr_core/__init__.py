"""RF-DETR, trained reproducibly. The public names are imported when first used: importing this costs milliseconds."""

from __future__ import annotations

import importlib
from typing import Any

_FUNCTIONS = ("build_trainer", "convert_legacy_checkpoint", "from_checkpoint", "load", "plot_metrics")


def __getattr__(name: str) -> Any:
    """A public name: a class, a constant, or a function; `__all__` are the names."""
    if not name[0].isupper() and name not in (*_FUNCTIONS, "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")  # or a module of the package
    return importlib.import_module("rfdetr_core.api").public(name)
