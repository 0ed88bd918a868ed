"""The whole of params.yaml, checked at once: before DVC deletes a stage's results, a typo must have been found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core.errors import UserError
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.gate import GateConfig
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.manifest import DataConfig
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.params import PARAMS_FILE, Config, load_yaml, read_section
from rfdetr_core.training.config import RuntimeConfig, TrainConfig, check_together
from rfdetr_core.upstream_options import refuse_absent

SECTIONS: dict[str, type[Config]] = {
    "data": DataConfig,
    "validate": ValidateConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "gate": GateConfig,
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
        _check_places(name, content, path)
        read_section(config, name, path)
    model = read_section(ModelConfig, "model", path)
    model.architecture(classes=1)
    check_together(model, read_section(TrainConfig, "train", path))


def _check_places(section: str, content: Any, path: Path) -> None:
    """Say why an option of upstream's is not here, or which section has it."""
    keys = content.get(section) if isinstance(content, dict) else None
    strange = [key for key in keys if key not in SECTIONS[section].model_fields] if isinstance(keys, dict) else []
    refuse_absent(section, strange, f"{path}: {section}")
    for key in strange:
        for other, config in SECTIONS.items():
            if key in config.model_fields:
                raise UserError(f"{path}: {section}.{key} is an option of the section {other}: write it there.")
