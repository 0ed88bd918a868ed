"""Checks, documents and previews params.yaml. Users also import the configs of the Python API from this package.

`settings.py` lists the config class of each section, and reads them all (`check_params`). `preflight.py` and
`dvc_files.py` implement the command `check`: they look for errors that would stop a stage, before DVC deletes results.
`preview.py` implements the command `preview`: it draws the batches of a training. `reference.py` writes
docs/parameters.md from the config classes, with the answers for users of upstream (`upstream*.py`). The stage
`validate` also calls `preflight.py`. It imports the module by name, so its code digest leaves out this package.

`from rfdetr_core.config import RFDETRNanoConfig, TrainConfig` imports the configs from rfdetr_core.api.configs.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """Import a config of the Python API, such as RFDETRNanoConfig or TrainConfig; `__all__` lists their names."""
    is_submodule = any(
        Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py")
    )  # this does not import the module
    if is_submodule or (name.startswith("_") and name != "__all__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("rfdetr_core.api").load_public_config(name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
