"""The stage export: files for other runtimes, each compared with the model it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.export.config import ExportConfig


def export_stage(where: ProjectPaths, config: ExportConfig, output: Path) -> None:
    """Write the files into `output`/export, and what was measured of them to `output`/export.json."""
    folder = output / "export"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    files.write_json(output / "export.json", {"files": {}})
