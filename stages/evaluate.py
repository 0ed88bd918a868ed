"""Stage evaluate: scores the chosen checkpoint on the test split (on valid if there is no test image)."""

from __future__ import annotations

import importlib
from pathlib import Path

from stages import run


def main() -> None:
    """Write reports/evaluate/."""
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.evaluation.config import EvaluateConfig
    from rfdetr_core.evaluation.evaluate import evaluate, machine_of, write_lineage
    from rfdetr_core.inference.predictor import Predictor

    config = read_section(EvaluateConfig, "evaluate")
    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    model, output = Path("output/checkpoint_best_total.pth"), Path("reports/evaluate")
    predictor = Predictor.from_checkpoint(model, batch_size=config.batch_size)
    metrics = evaluate(predictor, where, config, output)
    write_lineage(output / "lineage.json", model, where, config, metrics["split"], machine_of(predictor))
    # Loaded by name: tracking does not change a result, so the code digest does not include it.
    importlib.import_module("rfdetr_core.observers.publishing").track_evaluation(where)


if __name__ == "__main__":
    run(main)
