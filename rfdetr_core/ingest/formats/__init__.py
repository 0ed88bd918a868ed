"""Readers of the dataset formats: COCO (three layouts) and YOLO, each recognised by the layout of its files.

`read_dataset` picks the first format whose layout is present and returns its records, unchecked. A format is a module
with a function that recognises the layout and one that reads it; `_FORMATS` lists them.
"""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.formats import coco, yolo
from rfdetr_core.ingest.records import Dataset, Place

_FORMATS = (
    (coco.LAYOUT, coco.is_present, coco.read),
    (coco.PLAIN_LAYOUT, coco.plain_files, coco.read_plain),
    (yolo.LAYOUT, yolo.is_present, yolo.read),
)
_NAMED = "\n  COCO files with other names, which validate.coco of params.yaml must name"
LABEL_SUFFIXES = (".json", ".txt", ".yaml", ".yml")  # suffixes of the files beside the images of a dataset


def read_dataset(root: Path, findings: Findings) -> Dataset:
    """Read the labels of a dataset in the first format whose layout is present. No image is opened.

    Raises:
        UserError: the layout is unknown. Names the layouts and what the folder has.
    """
    has_named_files = findings.config.coco is not None
    formats = (
        (("the files that validate.coco names", lambda _: True, coco.read_named),) if has_named_files else _FORMATS
    )
    for layout, is_present, read in formats:
        if is_present(root):
            other_layouts = [
                other_layout for other_layout, is_other, _ in formats if other_layout != layout and is_other(root)
            ]
            if other_layouts:
                message = f"the folder has two layouts. This one is read: {layout}. This one is not: {other_layouts[0]}"
                findings.add("layout-ambiguous", Place("."), message)
            dataset = read(root, findings)
            for name in () if findings.broken else ("train", "valid"):
                cut_from_train = (
                    name == "valid" and findings.config.split is not None and findings.config.split.valid > 0
                )
                if name not in dataset and not cut_from_train:
                    findings.add("split-missing", Place(name), f"there is no {name} split. Looked for {layout}")
            return dataset
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    layouts = "".join(f"\n  {layout}" for layout, _, _ in _FORMATS)
    raise UserError(
        f"{root} has no known dataset layout. Looked for:{layouts}{_NAMED}\nFound: {listed(entries, 12)}{_hint(root)}"
    )


def _hint(root: Path) -> str:
    """A hint for the message: a subfolder that is a dataset, or an archive that was not unpacked."""
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and any(is_present(entry) for _, is_present, _ in _FORMATS):
            return f"\n{entry.name}/ has such a layout: name that folder instead."
        if entry.name.lower().endswith((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")):
            return f"\nUnpack {entry.name} first?"
    return ""
