"""Validation: findings about a dataset, and the manifest of what may be trained on."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import write_classes, write_manifest
from rfdetr_core.base.processes import without_collection
from rfdetr_core.ingest.canonical import CanonicalImage
from rfdetr_core.ingest.clean import CleanDataset, clean
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.findings import Finding, Findings
from rfdetr_core.ingest.folder import OPTION, check_folder
from rfdetr_core.ingest.formats import LABEL_SUFFIXES
from rfdetr_core.ingest.page import write_page
from rfdetr_core.ingest.rules import RULES
from rfdetr_core.ingest.survey import Survey

_SHOWN = 3
_QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def write_findings(folder: Path, findings: Findings) -> None:
    """Write findings.csv and findings.json, sorted by place; paths are below the dataset folder."""
    rows = [_row(finding) for finding in findings.by_place()]
    text = io.StringIO()
    header = ("severity", "code", "file", "line", "annotation", "image", "what", "advice", "effect")
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(folder / "findings.csv", text.getvalue())
    files.write_json(folder / "findings.json", rows)


def write_statistics(folder: Path, dataset: CleanDataset) -> None:
    """Write statistics.json: what each split holds, and each class in it."""
    files.write_json(folder / "statistics.json", {name: _count(dataset, name) for name in dataset.splits})


def print_survey(root: Path, decoded: int, known: int, seconds: float) -> None:
    """Print how many images were opened, and how fast."""
    rate = (decoded + known) / max(seconds, 1e-3)
    print(f"{root}: {decoded:,} images decoded, {known:,} known, in {seconds:.1f} s ({rate:,.0f} a second)")


def print_summary(root: Path, findings: Findings, dataset: CleanDataset | None) -> None:
    """Print what was counted, and the first few findings of each code with their number and what becomes of them."""
    for name, images in dataset.splits.items() if dataset else ():
        print(f"{root} {name}: {len(images)} images, {sum(len(image.instances) for image in images)} objects")
    groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for finding in findings.by_place():
        groups[finding.severity, finding.code].append(finding)
    for (severity, code), group in sorted(groups.items()):
        out = " (left out)" if group[0].effect == "left out" else ""
        print(f"{severity} {code}: {len(group)}{out}. {RULES[code].advice}")
        for place, what in ((finding.place, finding.what) for finding in group[:_SHOWN]):
            line = "" if place.line is None else f":{place.line}"
            annotation = "" if place.annotation is None else f", annotation {place.annotation}"
            image = f" ({place.image})" if place.image not in (None, place.file) else ""
            print(f"  {place.file}{line}{annotation}{image}: {what}")
        if len(group) > _SHOWN:
            print(f"  and {len(group) - _SHOWN} more")


def _row(finding: Finding) -> dict[str, Any]:
    place = finding.place
    where = {"file": place.file, "line": place.line, "annotation": place.annotation, "image": place.image}
    told = {"what": finding.what, "advice": RULES[finding.code].advice, "effect": finding.effect}
    return {"severity": finding.severity, "code": finding.code} | where | told


def _count(dataset: CleanDataset, name: str) -> dict[str, Any]:
    images: list[CanonicalImage] = dataset.splits[name]
    objects = [one for image in images for one in image.instances]
    classes = Counter(one.entry.name for one in objects)
    return {
        "images": len(images),
        "images_without_objects": sum(not image.instances for image in images),
        "objects": len(objects),
        "crowds": sum(one.crowd for one in objects),
        "masks": sum(one.segmentation is not None for one in objects),
        "objects_of_class": {entry.name: classes[entry.name] for entry in dataset.classes},
        "objects_per_image": _quantiles([len(image.instances) for image in images]),
        "box_width": _quantiles([one.box[2] for one in objects]),
        "box_height": _quantiles([one.box[3] for one in objects]),
        "box_area": _quantiles([one.box[2] * one.box[3] for one in objects]),
    }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    """Values that stand at these per cent of the way through the sorted ones."""
    ordered = sorted(values)
    return {f"{q}%": round(ordered[(len(ordered) - 1) * q // 100], 3) for q in _QUANTILES if ordered}


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
    check_folder(root, LABEL_SUFFIXES, option)
    findings = Findings(config)
    with Survey(root, cache, config.max_pixels) as survey:
        dataset = clean(root, findings, survey.examine)
    write_findings(reports, findings)
    write_page(reports, root, dataset, findings)
    print_survey(root, survey.decoded, survey.known, survey.seconds)
    print_summary(root, findings, dataset)
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
    write_statistics(reports, dataset)
    for name, images in dataset.splits.items():
        write_manifest(manifests / f"{name}.json", (image.row() for image in images))
    write_classes(manifests / "classes.json", dataset.classes)
