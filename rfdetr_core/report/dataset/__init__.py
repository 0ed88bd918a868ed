"""The dataset report: a page about the content of a dataset and the findings of its validation.

In: the checked dataset and its findings. Out: index.html in reports/dataset/. The stage `validate` calls `write_page`;
`verify` calls it again to compare the page. counts.py counts images and objects, overview.py makes tables and charts of
the counts, findings.py shows the findings (a group for each code, and a table of limited length), and pictures.py
chooses images to show.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.report import page
from rfdetr_core.report.dataset import counts, findings, overview
from rfdetr_core.report.dataset.pictures import gallery, pairs

_TEMPLATE = Path(__file__).parent / "dataset.html"


def write_page(reports: Path, root: Path, dataset: CleanDataset | None, all_findings: Findings) -> None:
    """Write index.html. Equal datasets give equal bytes, also in other folders.

    Args:
        reports: The folder for index.html.
        root: The folder of the dataset.
        dataset: The checked dataset. None: the labels cannot be read, so the page has only the findings.
        all_findings: The findings of the validation.
    """
    counted = counts.count(dataset) if dataset else None
    page.write_page(
        reports / "index.html",
        _TEMPLATE,
        "Dataset report",
        stopped=bool(all_findings.stopping) or dataset is None,
        findings=findings.summarize(all_findings, dataset, root),
        counts=counted,
        overview=overview.build_overview(counted) if counted else None,
        pairs=pairs(root, dataset, all_findings) if dataset else None,
        gallery=gallery(root, dataset) if dataset else None,
    )
