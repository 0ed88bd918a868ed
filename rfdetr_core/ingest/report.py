"""What validation found and counted: files for machines, a short table for the terminal."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfdetr_core import files
from rfdetr_core.ingest.canonical import CanonicalImage
from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.findings import Finding, Findings
from rfdetr_core.ingest.rules import RULES

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
