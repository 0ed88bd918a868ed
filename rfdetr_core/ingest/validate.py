"""Validation: findings about a dataset, and the manifest of what may be trained on."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.errors import UserError
from rfdetr_core.ingest import report
from rfdetr_core.ingest.clean import clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.examine import examine_all
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import check_folder
from rfdetr_core.manifest import write_manifest


def validate_dataset(root: Path, config: ValidateConfig, reports: Path, manifests: Path) -> None:
    """Decode every image and check every annotation of the dataset at `root`.

    Writes findings.csv, findings.json and statistics.json into `reports`, and <split>.json into `manifests`.

    Raises:
        UserError: the folder is missing, empty, untracked or of no known layout; or there are findings that stop the
            run: the findings are written then, and no manifest.
    """
    check_folder(root)
    findings = Findings(config)
    dataset = clean(root, findings, examine_all)
    report.write_findings(reports, findings)
    report.print_summary(root, findings, dataset)
    if findings.stopping or dataset is None:
        count = len(findings.stopping)
        drop = "" if findings.broken else ", or leave out what they name: validate.on_error: drop in params.yaml"
        raise UserError(
            f"{root} has {count} error{'s' * (count != 1)}, listed in {reports / 'findings.csv'}. Mend them{drop}."
        )
    report.write_statistics(reports, dataset)
    for name, images in dataset.splits.items():
        write_manifest(manifests / f"{name}.json", [image.row() for image in images])
