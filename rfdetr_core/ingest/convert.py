"""The stage convert: the annotations of a validated dataset in canonical form. It opens and copies no image."""

from __future__ import annotations

from pathlib import Path

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS, ManifestRow, read_classes, read_manifest, write_classes
from rfdetr_core.base.processes import without_collection
from rfdetr_core.ingest.canonical import write_split
from rfdetr_core.ingest.clean import clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.records import FileFacts


def facts_of(row: ManifestRow) -> FileFacts:
    """The facts about an image file that its manifest row has."""
    return FileFacts(row.sha256, row.width, row.height, pixels=row.pixels)


@without_collection()
def convert_dataset(root: Path, config: ValidateConfig, manifests: Path, annotations: Path) -> None:
    """Write <split>.json of all three splits and classes.json to `annotations`.

    Args:
        root: the dataset folder.
        config: the section `validate`, as it was when the dataset was validated.
        manifests: the folder of the manifests that validation wrote.
        annotations: the folder to write to.

    Raises:
        UserError: there is no manifest, or the annotations have changed since the manifests were written.
    """
    rows = {name: read_manifest(manifests / f"{name}.json") for name in SPLITS}
    classes = read_classes(manifests / "classes.json")
    facts = {row.path: facts_of(row) for split in rows.values() for row in split}
    stale = f"{root} has changed since it was validated: {{}}. Validate it again: dvc repro validate"
    if not root.is_dir():
        raise UserError(stale.format("the folder does not exist"))
    split_of_path = {row.path: name for name, split in rows.items() for row in split}
    dataset = clean(root, Findings(config), lambda _: facts.items(), split_of_path)
    if dataset is None:
        raise UserError(stale.format("its annotations cannot be read"))
    if dataset.classes != classes:
        raise UserError(stale.format(f"its classes differ from {manifests / 'classes.json'}"))
    for name, images in dataset.splits.items():
        differing = {image.row() for image in images} ^ set(rows.pop(name))
        if differing:
            raise UserError(stale.format(f"{min(row.path for row in differing)} of {name} differs from {manifests}"))
    for name, images in dataset.splits.items():
        write_split(annotations / f"{name}.json", images, dataset.classes)
    write_classes(annotations / "classes.json", dataset.classes)
