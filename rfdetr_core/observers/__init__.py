"""Callbacks that observe a training: the console, the facts of a run, MLflow and other loggers. They change no result.

`observers` gives the callbacks that the section `runtime` asks for. The trainer imports it by name, so that no stage
depends on this package and a change here reruns nothing. `console.py` prints, `loggers.py` sends each epoch of
history.csv to MLflow, TensorBoard, Weights & Biases and ClearML, and `runs.py` is the MLflow run of one training. After
a training, `publishing.py` sends evaluations and reports (the command `publish`), and `logged_model.py` links the model
file. Start reading at loggers.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from rfdetr_core.training.config import RuntimeConfig


def observers(runtime: RuntimeConfig, record: Mapping[str, Any], folder: Path) -> list[Callback]:
    """The callbacks that the section `runtime` asks for.

    Args:
        runtime: The section `runtime`.
        record: The training record.
        folder: The run folder.
    """
    from rfdetr_core.observers.console import console
    from rfdetr_core.observers.loggers import LOGGERS, MlflowRun, RunFacts

    callbacks: list[Callback] = [console(runtime.progress_bar, folder), RunFacts(record, folder)]
    if runtime.mlflow:
        callbacks.append(MlflowRun(runtime.project, runtime.run, record, folder))
    return callbacks + [logger(runtime, record, folder) for logger in LOGGERS if getattr(runtime, logger.key)]
