"""Training on PyTorch Lightning. The three public names are imported when first used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rfdetr_core.api.custom import RFDETRDataModule, RFDETRModelModule, build_trainer

__all__ = ["RFDETRDataModule", "RFDETRModelModule", "build_trainer"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rfdetr_core.api.custom"), name)
    module = any(Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py"))  # not imported to see it
    if module or name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise importlib.import_module("rfdetr_core.api").missing_name_error(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
