"""RF-DETR, trained reproducibly. The public names are imported when first used: importing this costs milliseconds."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """A public name: a class, a constant, or a function; `__all__` are the names. See `rfdetr_core.api.load_public_name`."""
    module = any(Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py"))  # not imported to see it
    if module or (name.startswith("_") and name != "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("rfdetr_core.api").load_public_name(name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
