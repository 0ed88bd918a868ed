"""Stage convert: writes the annotations in canonical form, and the class table."""

from __future__ import annotations

from pathlib import Path

from stages import run


def main() -> None:
    """Write annotations/."""
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.ingest.config import ValidateConfig
    from rfdetr_core.ingest.convert import convert_dataset

    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    config = read_section(ValidateConfig, "validate")
    convert_dataset(where.dataset, config, manifests=where.manifests, annotations=where.annotations)


if __name__ == "__main__":
    run(main)
