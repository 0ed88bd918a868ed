"""Stage train: the run folder, with the best checkpoints of both tracks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from rfdetr_core.base.processes import end_with_parent
from stages import run


def main() -> None:
    """Write output/checkpoint_best_ema.pth, checkpoint_best_regular.pth, history.csv and scores.json."""
    # Before the imports that take seconds. A rank that Lightning or torchrun started has nothing to finish alone.
    end_with_parent(signal.SIGTERM if os.environ.get("LOCAL_RANK", "0") == "0" else signal.SIGKILL)
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.model.config import ModelConfig
    from rfdetr_core.training.config import RuntimeConfig, TrainConfig
    from rfdetr_core.training.run import train_model

    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    model, config = read_section(ModelConfig, "model"), read_section(TrainConfig, "train")
    train_model(where, model, config, read_section(RuntimeConfig, "runtime"), Path("output"))


if __name__ == "__main__":
    run(main)
