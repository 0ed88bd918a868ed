"""Stage export: writes the model as files for other runtimes, and compares each file with the checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from stages import run


def main() -> None:
    """Write output/export/ and output/export.json."""
    from rfdetr_core.base import files
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.export.config import ExportConfig

    config, output = read_section(ExportConfig, "export"), Path("output")
    if config.formats:
        from rfdetr_core.export.run import export_stage

        where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
        export_stage(where, config, output)
    else:  # without torch, whose import takes seconds
        shutil.rmtree(output / "export", ignore_errors=True)
        (output / "export").mkdir(parents=True)
        files.write_json(output / "export.json", {"files": {}})


if __name__ == "__main__":
    run(main)
