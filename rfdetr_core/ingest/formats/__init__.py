"""The formats that datasets come in, each found by its layout."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.errors import UserError
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import coco, yolo
from rfdetr_core.ingest.records import Dataset, Place

_FORMATS = ((coco.LAYOUT, coco.found, coco.read), (yolo.LAYOUT, yolo.found, yolo.read))


def read_dataset(root: Path, findings: Findings) -> Dataset:
    """Read the labels of a dataset in the first format whose layout is there; no image is opened.

    Raises:
        UserError: no known layout; says what was looked for and what is there.
    """
    for layout, found, read in _FORMATS:
        if found(root):
            dataset = read(root, findings)
            for name in () if findings.broken else ("train", "valid"):
                if name not in dataset:
                    findings.add("split-missing", Place(name), f"there is no {name} split. Looked for {layout}")
            return dataset
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    listed = ", ".join(entries[:12]) + (f" and {len(entries) - 12} more" if len(entries) > 12 else "")
    wanted = "".join(f"\n  {layout}" for layout, _, _ in _FORMATS)
    raise UserError(f"{root} has no known dataset layout. Looked for:{wanted}\nFound: {listed}")
