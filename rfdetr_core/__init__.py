"""RF-DETR, trained reproducibly: the Python API and the command line of the project.

`from rfdetr_core import RFDETRNano` gives a model class: `predict`, `train`, `evaluate`, `export`. The package
`rfdetr_core.api` defines these names; each one is imported when it is first used, so that importing rfdetr_core takes
milliseconds. The command line is `python -m rfdetr_core` (cli.py). The stages of dvc.yaml call the other packages
directly. Start reading at api/model.py for the classes, or at training/run.py for a training.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """Import a public name (a class, a constant or a function) from its module; `__all__` lists the names."""
    is_submodule = any(
        Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py")
    )  # this does not import the module
    if is_submodule or (name.startswith("_") and name != "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("rfdetr_core.api").load_public_name(name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
