"""Stage validate: every image decoded, every annotation checked, the manifest of what may be trained on."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.manifest import DataConfig
from rfdetr_core.params import read_section
from rfdetr_core.processes import end_with_parent, interrupt_when_told
from rfdetr_core.settings import check_params
from stages import run


def main() -> None:
    """Write reports/dataset/ and manifest/."""
    interrupt_when_told()
    end_with_parent()
    check_params()
    root, config = Path(read_section(DataConfig, "data").dir), read_section(ValidateConfig, "validate")
    validate_dataset(root, config, Path("reports/dataset"), Path("manifest"), cache=Path(".cache/images.sqlite"))


if __name__ == "__main__":
    run(main)
