"""Training on PyTorch Lightning. The three public names are imported when first used."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "RFDETRDataModule": "rfdetr_core.data.datamodule",
    "RFDETRModelModule": "rfdetr_core.training.module",
    "build_trainer": "rfdetr_core.training.trainer",
}
__all__ = ["RFDETRDataModule", "RFDETRModelModule", "build_trainer"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
