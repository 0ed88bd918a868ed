"""Training on PyTorch Lightning. The three public names are imported when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfdetr_core.api.custom import RFDETRDataModule, RFDETRModelModule, build_trainer

__all__ = ["RFDETRDataModule", "RFDETRModelModule", "build_trainer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rfdetr_core.api.custom"), name)
    if name[0].isupper() or name in ("convert_legacy_checkpoint", "seed_everything"):  # and no module of the package
        raise importlib.import_module("rfdetr_core.api").missing(__name__, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
