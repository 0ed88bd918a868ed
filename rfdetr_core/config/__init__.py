"""The whole of params.yaml: checked, documented, and previewed; and the configs of the Python API, when first used."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """A config of the Python API, such as RFDETRNanoConfig or TrainConfig; `__all__` are their names."""
    module = any(Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py"))  # not imported to see it
    if module or (name.startswith("_") and name != "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("rfdetr_core.api").load_public_config(name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
