"""Stage train: trains, and writes the run folder with the best checkpoints of both tracks."""

from __future__ import annotations

from pathlib import Path

from stages import run


def main() -> None:
    """Write output/checkpoint_best_ema.pth, checkpoint_best_regular.pth, history.csv, steps.csv and scores.json."""
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.model.config import ModelConfig
    from rfdetr_core.training.config import RuntimeConfig, TrainConfig
    from rfdetr_core.training.portable import set_variables

    model, config = read_section(ModelConfig, "model"), read_section(TrainConfig, "train")
    set_variables(config)  # before torch is imported
    from rfdetr_core.training.run import train_model

    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    train_model(where, model, config, read_section(RuntimeConfig, "runtime"), Path("output"))


if __name__ == "__main__":
    run(main)
