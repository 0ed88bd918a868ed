"""What watches a training. The trainer loads this by name: it may not change a result, and no stage depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from rfdetr_core.training.config import RuntimeConfig


def observers(runtime: RuntimeConfig, record: Mapping[str, Any], folder: Path) -> list[Callback]:
    """The callbacks that the `runtime` section asks for; `record` is what the training says of its origin."""
    from rfdetr_core.observers.console import console
    from rfdetr_core.observers.loggers import LOGGERS, MlflowRun, RunFacts

    callbacks: list[Callback] = [console(runtime.progress_bar, folder), RunFacts(record, folder)]
    if runtime.mlflow:
        callbacks.append(MlflowRun(runtime.project, runtime.run, record, folder))
    return callbacks + [logger(runtime, record, folder) for logger in LOGGERS if getattr(runtime, logger.key)]
