"""Stage convert: the annotations in canonical form, and the class table."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.manifest import DataConfig
from rfdetr_core.params import read_section
from rfdetr_core.processes import end_with_parent
from stages import run


def main() -> None:
    """Write annotations/."""
    end_with_parent()
    root, config = Path(read_section(DataConfig, "data").dir), read_section(ValidateConfig, "validate")
    convert_dataset(root, config, manifests=Path("manifest"), annotations=Path("annotations"))


if __name__ == "__main__":
    run(main)
