"""Validation: findings about a dataset, and the manifest of what may be trained on."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.errors import UserError
from rfdetr_core.ingest import report
from rfdetr_core.ingest.clean import clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import OPTION, check_folder
from rfdetr_core.ingest.page import write_page
from rfdetr_core.ingest.survey import Survey
from rfdetr_core.manifest import write_classes, write_manifest
from rfdetr_core.processes import without_collection


@without_collection()
def validate_dataset(
    root: Path,
    config: ValidateConfig,
    reports: Path,
    manifests: Path,
    cache: Path | None = None,
    *,
    option: str = OPTION,
) -> None:
    """Decode every image and check every annotation of the dataset at `root`.

    Writes index.html, findings.csv, findings.json and statistics.json into `reports`, and <split>.json and classes.json
    into `manifests`. cache: a file where what was found of images is kept from run to run. option: what names `root`.

    Raises:
        UserError: the folder is missing, empty, untracked or of no known layout; or there are findings that stop the
            run: the findings are written then, and no manifest.
    """
    check_folder(root, option)
    findings = Findings(config)
    with Survey(root, cache, config.max_pixels) as survey:
        dataset = clean(root, findings, survey.examine)
    report.write_findings(reports, findings)
    write_page(reports, root, dataset, findings)
    report.print_survey(root, survey.decoded, survey.known, survey.seconds)
    report.print_summary(root, findings, dataset)
    if findings.stopping or dataset is None:
        count = len(findings.stopping)
        drop = (
            ""
            if findings.broken or config.on_error == "drop" or option != OPTION
            else ", or leave out what they name: validate.on_error: drop in params.yaml"
        )
        raise UserError(
            f"{root} has {count} error{'s' * (count != 1)}, listed in {reports / 'findings.csv'} and shown in "
            f"{reports / 'index.html'}. Mend them{drop}."
        )
    report.write_statistics(reports, dataset)
    for name, images in dataset.splits.items():
        write_manifest(manifests / f"{name}.json", (image.row() for image in images))
    write_classes(manifests / "classes.json", dataset.classes)
