"""Each fault of the catalogue, planted in a good dataset, gives exactly its finding at exactly its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rfdetr_core.ingest.rules import RULES, markdown
from tests.architecture import ROOT
from tests.ingest.faults import FAULTS, Fault
from tests.ingest.samples import make_coco, make_masks, make_plain, make_yolo, places, validate


@pytest.mark.parametrize("make", [make_coco, make_masks, make_plain, make_yolo])
def test_a_good_dataset_has_no_finding(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    assert validate(make(tmp_path / "data"), tmp_path) == ([], None)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_found_where_it_is_and_nothing_else(tmp_path: Path, fault: Fault) -> None:
    root = fault.make(tmp_path / "data")
    fault.plant(root)
    findings, error = validate(root, tmp_path, **fault.config)
    rule = RULES[fault.code]
    assert places(findings) == [(fault.code, rule.severity, fault.file, fault.where)]
    assert findings[0]["advice"] == rule.advice
    assert findings[0]["what"]
    assert (error is not None) == (rule.severity == "error")
    assert (tmp_path / "manifest").exists() == (error is None)


def test_every_code_has_a_fault_in_the_catalogue_and_a_line_in_the_documentation() -> None:
    assert {fault.code for fault in FAULTS.values()} == RULES.keys()
    page = (ROOT / "docs" / "findings.md").read_text()
    assert page == markdown(), "python -m rfdetr_core.ingest.rules > docs/findings.md"
