"""Stage validate: decodes every image, checks every annotation, and writes findings, manifest and metadata."""

from __future__ import annotations

import importlib
from pathlib import Path

from stages import run


def main() -> None:
    """Write reports/dataset/, manifest/ and metadata/."""
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.base.processes import treat_sigterm_as_ctrl_c
    from rfdetr_core.ingest.config import ValidateConfig
    from rfdetr_core.ingest.validate import validate_dataset
    from rfdetr_core.report.dataset import write_page

    treat_sigterm_as_ctrl_c()
    # Loaded by name: this check imports all sections' configs, and most of them do not change this stage's result.
    preflight = importlib.import_module("rfdetr_core.config.preflight")
    preflight.check_params()
    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    config, cache = read_section(ValidateConfig, "validate"), Path(".cache/images.sqlite")
    reports = Path("reports/dataset")
    validate_dataset(
        where.dataset,
        config,
        reports,
        where.manifests,
        cache=cache,
        metadata=where.metadata,
        write_page=write_page,
    )
    preflight.check_masks(reports / "statistics.json")


if __name__ == "__main__":
    run(main)
