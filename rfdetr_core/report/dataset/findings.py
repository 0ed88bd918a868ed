"""The findings on the page: a group for each code with advice and pictures, and a table of at most 10,000 findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.findings import Finding, Findings
from rfdetr_core.ingest.rules import RULES
from rfdetr_core.report.gallery import Card, Gallery, Group, Shape
from rfdetr_core.report.tables import Column, Name, Pill, Setter, Table
from rfdetr_core.report.text import TIMES
from rfdetr_core.report.thumbnails import Thumbnails

_ROWS = 10_000
_DRAWN, _DRAWN_EACH = 60, 6
_SIDE = 240
_ALL, _ANCHOR = "all codes", "all-findings"
_EFFECTS = {"stop": "stops the run", "left out": "left out", "kept": "kept"}
_COLUMNS = (
    Column("severity"),
    Column("code", style="nowrap"),
    Column("file", names=True, style="file"),
    Column("place", style="nowrap"),
    Column("image", names=True, style="file"),
    Column("what", names=True, style="wide"),
)


@dataclass(frozen=True)
class CodeGroup:
    """The findings of a code."""

    code: str
    severity: Pill
    count: str
    advice: str
    show: Setter
    pictures: Gallery


@dataclass(frozen=True)
class Summary:
    """All findings: their number, by code, and as a table."""

    total: int
    errors: int
    groups: Sequence[CodeGroup]
    table: Table


def summarize(findings: Findings, dataset: CleanDataset | None, root: Path) -> Summary:
    """Group findings by code, errors first, and list them by place. A long table is cut to some findings of each code.

    Args:
        findings: All findings.
        dataset: The checked dataset, for the pictures; None: no pictures.
        root: The folder of the dataset.
    """
    import pandas as pd

    ordered = findings.by_place()
    table = pd.DataFrame({"code": [finding.code for finding in ordered], "finding": ordered}, dtype=object)
    by_code = table.groupby("code").finding
    groups: dict[str, list[Finding]] = {code: group.tolist() for code, group in by_code}
    listed = sorted(by_code.cumcount().sort_values(kind="stable").index[:_ROWS])
    codes = sorted(groups, key=lambda code: (groups[code][0].severity, -len(groups[code]), code))
    drawn = _draw({code: groups[code] for code in codes}, dataset, Thumbnails(root)) if dataset else {}
    return Summary(
        len(ordered),
        sum(finding.severity == "error" for finding in ordered),
        [_group(code, groups[code], drawn.get(code, [])) for code in codes],
        Table(
            _COLUMNS, [_row(ordered[number]) for number in listed], anchor=_ANCHOR, noun="finding", stacked=True,
            choices={"severity": "all severities", "code": _ALL},
        ),
    )  # fmt: skip


def _group(code: str, findings: Sequence[Finding], cards: Sequence[Card]) -> CodeGroup:
    first = findings[0]
    count = f"{len(findings):,} {TIMES}, {_EFFECTS[first.effect]}"
    pictures = Gallery(cards, [Group("the box of the finding", "#ff2d2d", unnamed=True)], columns="thumbs")
    show = Setter("list", _ANCHOR, {_ALL: code})
    return CodeGroup(code, Pill(first.severity, first.severity), count, RULES[code].advice, show, pictures)


def _draw(groups: dict[str, list[Finding]], dataset: CleanDataset, thumbnails: Thumbnails) -> dict[str, list[Card]]:
    """Pictures of the first findings of each code with a box, and of the images with a wrong size.

    Only images that the validation has decoded are opened.
    """
    images = {image.path: image for name in SPLITS for image in dataset.splits[name]}
    first = {
        code: [finding for finding in members if finding.box and finding.place.image in images]
        for code, members in groups.items()
    }
    first["image-size-differs"] = groups.get("image-size-differs", [])
    drawn: dict[str, list[Card]] = defaultdict(list)
    turns = [(rank, code) for code, members in first.items() for rank in range(min(len(members), _DRAWN_EACH))]
    for rank, code in sorted(turns, key=lambda turn: turn[0])[:_DRAWN]:
        finding = first[code][rank]
        path, box = finding.place.image or "", finding.box
        if box:
            size = images[path].width, images[path].height
            picture = thumbnails.crop(path, box, size, _SIDE, [Shape(0, *box, "bold")])
        else:
            picture = thumbnails.image(path, _SIDE)
        if picture:
            drawn[code].append(Card(picture, [Name(path), _where(finding), Name(finding.message)]))
    return drawn


def _row(finding: Finding) -> list[Any]:
    place = finding.place
    image = place.image if place.image != place.file else ""
    pill = Pill(finding.severity, finding.severity)
    return [pill, finding.code, place.file or "", _where(finding), image or "", finding.message]


def _where(finding: Finding) -> str:
    line, annotation = finding.place.line, finding.place.annotation
    return f"line {line}" if line is not None else f"annotation {annotation}" if annotation is not None else ""
