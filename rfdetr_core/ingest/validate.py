"""The stage validate: it checks a dataset, and writes findings, statistics, manifests and metadata."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import SPLITS, ClassEntry, write_classes, write_manifest
from rfdetr_core.base.printing import say
from rfdetr_core.base.processes import without_collection
from rfdetr_core.ingest.clean import CleanDataset, clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import OPTION, check_folder
from rfdetr_core.ingest.formats import LABEL_SUFFIXES
from rfdetr_core.ingest.metadata import read_metadata_csv, write_metadata_of
from rfdetr_core.ingest.rules import RULES
from rfdetr_core.ingest.survey import Survey
from rfdetr_core.ingest.tables import tables

if TYPE_CHECKING:
    import pandas as pd

# Writes the page of a dataset. Arguments: the reports folder, the dataset folder, the dataset (None if its labels
# cannot be read), the findings.
PageWriter = Callable[[Path, Path, CleanDataset | None, Findings], None]
_PRINTED = 3  # findings per code
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def _print_summary(root: Path, survey: Survey, table: pd.DataFrame, dataset: CleanDataset | None) -> None:
    """Print the counts, and for each code its number of findings, their effect and the first few of them."""
    rate = (survey.decoded + survey.known) / max(survey.seconds, 1e-3)
    counts = f"{survey.decoded:,} images decoded, {survey.known:,} cached"
    say(f"{root}: {counts}, in {survey.seconds:.1f} s ({rate:,.0f} a second)")
    for name, images in dataset.splits.items() if dataset else ():
        say(f"{root} {name}: {len(images)} images, {sum(len(image.instances) for image in images)} objects")
    for (severity, code), group in table.groupby(["severity", "code"]):
        effect = " (left out)" if group.effect.iloc[0] == "left out" else ""
        say(f"{severity} {code}: {len(group)}{effect}. {RULES[code].advice}")
        for row in group.head(_PRINTED).itertuples():
            line = "" if row.line is None else f":{row.line}"
            annotation = "" if row.annotation is None else f", annotation {row.annotation}"
            image = f" ({row.image})" if row.image not in (None, row.file) else ""
            say(f"  {row.file}{line}{annotation}{image}: {row.what}")
        if len(group) > _PRINTED:
            say(f"  and {len(group) - _PRINTED} more")


def _table(findings: Findings) -> pd.DataFrame:
    """The findings sorted by place, one per row, in the columns of findings.csv. Paths start at the dataset folder."""
    import pandas as pd

    columns = ["severity", "code", "file", "line", "annotation", "image", "what", "advice", "effect"]
    rows = [
        (
            finding.severity,
            finding.code,
            *attrgetter(*columns[2:6])(finding.place),
            finding.message,
            RULES[finding.code].advice,
            finding.effect,
        )
        for finding in findings.by_place()
    ]
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _count(images: pd.DataFrame, objects: pd.DataFrame, classes: list[ClassEntry]) -> dict[str, Any]:
    of_class = objects.label.value_counts()
    return {
        "images": len(images),
        "images_without_objects": int((images.objects == 0).sum()),
        "objects": len(objects),
        "crowds": int(objects.crowd.sum()),
        "masks": int(objects["mask"].sum()),
        "objects_of_class": {entry.name: int(of_class.get(entry.index, 0)) for entry in classes},
        "objects_per_image": _quantiles(images.objects),
        "box_width": _quantiles(objects.width),
        "box_height": _quantiles(objects.height),
        "box_area": _quantiles(objects.width * objects.height),
    }


def _quantiles(values: pd.Series) -> dict[str, float]:
    """The quantiles at _QUANTILES per cent; always values that occur."""
    quantiles = values.quantile([q / 100 for q in _QUANTILES], interpolation="lower").tolist() if len(values) else ()
    return {f"{q}%": round(value, 3) for q, value in zip(_QUANTILES, quantiles, strict=False)}


@without_collection()
def validate_dataset(
    root: Path,
    config: ValidateConfig,
    reports: Path,
    manifests: Path,
    cache: Path | None = None,
    *,
    option: str = OPTION,
    project: Path = Path(),
    metadata: Path | None = None,
    write_page: PageWriter | None = None,
) -> None:
    """Decode every image and check every annotation of a dataset.

    Args:
        root: the dataset folder.
        config: the section `validate` of params.yaml.
        reports: gets findings.csv, findings.json and statistics.json (counts per split and class).
        manifests: gets <split>.json and classes.json.
        cache: a file that keeps the facts about images between runs. None: every image is decoded.
        option: the option that names `root`, for messages.
        project: the folder of params.yaml, whose repository should track the dataset.
        metadata: gets <split>.csv with the metadata of each image. None: not written.
        write_page: writes index.html into `reports`, also if findings stop the run.

    Raises:
        UserError: the folder is missing, empty, not tracked or in an unknown layout; or there are findings that stop
            the run. In the last case the findings are written, but no manifest.
    """
    for warning in check_folder(root, LABEL_SUFFIXES, option, project):
        if option == OPTION:
            say(f"warning: {warning}", file=sys.stderr)
    findings = Findings(config)
    with Survey(root, cache, config.max_pixels) as survey:
        dataset = clean(root, findings, survey.examine)
    metadata_rows = read_metadata_csv(root, dataset.named, findings) if dataset else {}
    table = _table(findings)
    files.write_table(reports / "findings.csv", table)
    files.write_json(reports / "findings.json", table.to_dict("records"))
    if write_page:
        write_page(reports, root, dataset, findings)
    _print_summary(root, survey, table, dataset)
    if findings.stopping or dataset is None:
        count = len(findings.stopping)
        where = f"listed in {reports / 'findings.csv'}"
        where += f" and shown in {reports / 'index.html'}" if write_page else ""
        remedy = "Correct them."
        if not findings.broken and config.on_error != "drop" and option == OPTION:
            remedy += " Or leave out the images and objects with errors: validate.on_error: drop in params.yaml."
        raise UserError(f"{root} has {count} error{'s' * (count != 1)}, {where}. {remedy}")
    images, objects = tables(dataset)
    counts = {
        name: _count(images[images.split == number], objects[objects.split == number], dataset.classes)
        for number, name in enumerate(SPLITS)
    }
    files.write_json(reports / "statistics.json", counts)
    for name, split in dataset.splits.items():
        write_manifest(manifests / f"{name}.json", (image.row() for image in split))
    write_classes(manifests / "classes.json", dataset.classes)
    if metadata is not None:
        write_metadata_of(dataset, metadata_rows, metadata)
