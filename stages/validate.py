"""Stage validate: every image decoded, every annotation checked, the manifest of what may be trained on."""

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
    # By name: the check of all sections imports every config, and none of them changes the result of this stage.
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
