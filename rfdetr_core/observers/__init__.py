"""What watches a training. The trainer loads this by name: it may not change a result, and no stage depends on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback

from rfdetr_core.training.config import RuntimeConfig


def observers(runtime: RuntimeConfig, record: Mapping[str, Any], folder: Path) -> list[Callback]:
    """The callbacks that the `runtime` section asks for; `record` is what the training says of its origin."""
    from rfdetr_core.observers.console import Lines, ProgressBar
    from rfdetr_core.observers.mlflow import MlflowRun

    found: list[Callback] = [ProgressBar() if runtime.progress_bar and sys.stderr.isatty() else Lines()]
    return [*found, MlflowRun(runtime.project, runtime.run, record, folder)] if runtime.mlflow else found
