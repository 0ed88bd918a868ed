"""The dataset report: one page that shows what a dataset holds and what is wrong with it.

Of findings it has a table of bounded length, a group for each code, and pictures of some.
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
    """Write index.html into `reports`: equal bytes for an equal dataset, wherever it is.

    dataset: None where the labels cannot be understood; the page has the findings alone then.
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
