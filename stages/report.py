"""Stage report: writes the evaluation page, recommended thresholds and suspected label errors."""

from __future__ import annotations

import importlib
from pathlib import Path

from stages import run


def main() -> None:
    """Write index.html, thresholds.json, intervals.json and suspects.csv into reports/evaluate/."""
    from rfdetr_core.base.manifest import DataConfig
    from rfdetr_core.base.params import read_section
    from rfdetr_core.base.paths import ProjectPaths
    from rfdetr_core.report.config import ReportConfig
    from rfdetr_core.report.evaluation import write_report

    config = read_section(ReportConfig, "report")
    where = ProjectPaths(dataset=Path(read_section(DataConfig, "data").dir))
    write_report(where, config, Path("reports/evaluate"), Path("output"))
    # Loaded by name: tracking does not change a result, so the code digest does not include it.
    importlib.import_module("rfdetr_core.observers.publishing").track_report(where)


if __name__ == "__main__":
    run(main)
