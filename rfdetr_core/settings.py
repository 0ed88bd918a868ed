"""The whole of params.yaml, checked at once: before DVC deletes a stage's results, a typo must have been found."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.errors import UserError
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.manifest import DataConfig
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.params import PARAMS_FILE, Config, load_yaml, read_section
from rfdetr_core.training.config import RuntimeConfig, TrainConfig

SECTIONS: dict[str, type[Config]] = {
    "data": DataConfig,
    "validate": ValidateConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "runtime": RuntimeConfig,
}


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section as its stage will.

    Raises:
        UserError: an unknown section or key, a wrong type, or a combination that cannot be trained.
    """
    content = load_yaml(path)
    unknown = sorted(str(name) for name in content if name not in SECTIONS) if isinstance(content, dict) else []
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)} is no section. Known sections: {', '.join(SECTIONS)}.")
    for name, config in SECTIONS.items():
        read_section(config, name, path)
    read_section(ModelConfig, "model", path).architecture(classes=1)
