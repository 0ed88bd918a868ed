"""Training on PyTorch Lightning.

Input: the annotations and manifests of train and valid, `weights/`, and the sections `model`, `train` and `runtime` of
params.yaml. Output: a run folder with the best checkpoints of both tracks, history.csv, steps.csv, scores.json and the
state from which an interrupted run resumes. The stage `train` and `RFDETR.train` of the API call `run.train_model`.

A track is a set of weights that is scored in each epoch: `regular` are the weights that the optimiser changes, `ema`
their moving average.

Start reading in run.py: it builds everything in `prepare_training`, then lets a Lightning Trainer call the hooks of
module.py (the steps) and of the callbacks in callbacks.py (averaging, scores), outputs.py (files) and interruption.py
(signals). record.py collects the inputs that decide the result. `RFDETRModelModule`, `RFDETRDataModule` and
`build_trainer` are imported when they are first used.
"""

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
    module = any(Path(f"{__path__[0]}/{name}{end}").exists() for end in ("", ".py"))  # found without importing it
    if module or name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise importlib.import_module("rfdetr_core.api").missing_name_error(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
