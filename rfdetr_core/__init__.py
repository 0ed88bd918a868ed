"""RF-DETR, trained reproducibly. The public names are imported when first used: importing this costs milliseconds."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """RFDETR, the class of a variant (RFDETRNano, ...), load and from_checkpoint; `__all__` are their names."""
    if not name.startswith("RFDETR") and name not in ("load", "from_checkpoint", "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("rfdetr_core.api"), name)
