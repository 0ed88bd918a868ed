"""Findings as the page has them: a table of bounded length, a group for each code, pictures of some."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset, Pair
from rfdetr_core.ingest.findings import Finding, Findings
from rfdetr_core.ingest.page.pictures import Studio
from rfdetr_core.ingest.rules import RULES

_ROWS = 10_000
_DRAWN, _DRAWN_EACH = 60, 6
_PAIRS = 24
_FAULT_SIDE, _PAIR_SIDE = 240, 288


def tell(findings: Findings, dataset: CleanDataset | None, studio: Studio) -> dict[str, Any]:
    """Groups by code with advice and pictures, and rows sorted by place: of very many, some of each code."""
    import pandas as pd

    ordered = findings.by_place()
    table = pd.DataFrame({"code": [one.code for one in ordered], "finding": ordered}, dtype=object)
    by_code = table.groupby("code").finding
    groups: dict[str, list[Finding]] = {code: group.tolist() for code, group in by_code}
    shown = sorted(by_code.cumcount().sort_values(kind="stable").index[:_ROWS])
    codes = sorted(groups, key=lambda code: (groups[code][0].severity, -len(groups[code]), code))
    drawn = _draw({code: groups[code] for code in codes}, dataset, studio) if dataset else {}
    names: dict[str | None, int] = {None: 0}
    return {
        "total": len(ordered),
        "groups": [
            {
                "code": code,
                "severity": groups[code][0].severity,
                "effect": groups[code][0].effect,
                "count": len(groups[code]),
                "advice": RULES[code].advice,
                "pictures": drawn.get(code, []),
            }
            for code in codes
        ],
        "rows": [_row(ordered[number], codes, names) for number in shown],
        "names": list(names),
    }


def show_pairs(dataset: CleanDataset, findings: Findings, studio: Studio) -> dict[str, Any]:
    """Pictures of some pairs of copies: those across splits first, then of each original the closest."""
    import pandas as pd

    splits: dict[str, list[str]] = defaultdict(list)
    for name in SPLITS:
        for image in dataset.splits[name]:
            splits[image.path].append(name)
    equal = {one.place.image for one in findings.all if one.code in ("leakage", "image-doubled")}
    pairs = pd.DataFrame(dataset.pairs, columns=Pair._fields, dtype=object).sort_values(["distance", "path", "other"])
    pairs["within"] = [not set(splits[pair.path]).isdisjoint(splits[pair.other]) for pair in pairs.itertuples()]
    pairs["earlier"] = pairs.groupby("other").cumcount()
    shown: list[dict[str, Any]] = []
    for pair in pairs.sort_values(["within", "earlier"], kind="stable").head(_PAIRS).itertuples():
        pictures = [studio.whole(path, _PAIR_SIDE) for path in (pair.path, pair.other)]
        if all(pictures):
            sides = [
                _side(path, splits[path], one) for path, one in zip((pair.path, pair.other), pictures, strict=True)
            ]
            shown.append({"sides": sides, "distance": pair.distance, "equal": pair.path in equal})
    return {"total": len(dataset.pairs), "shown": shown}


def _side(path: str, splits: list[str], picture: dict[str, Any] | None) -> dict[str, Any]:
    return {"path": path, "split": " and ".join(splits) or "left out", "picture": picture}


def _draw(groups: dict[str, list[Finding]], dataset: CleanDataset, studio: Studio) -> dict[str, list[dict[str, Any]]]:
    """Pictures of the first few findings of each code that have a box, and of images whose size is wrong.

    Only images that validation decoded are opened.
    """
    images = {image.path: image for name in SPLITS for image in dataset.splits[name]}
    first = {code: [one for one in some if one.box and one.place.image in images] for code, some in groups.items()}
    first["image-size-differs"] = groups.get("image-size-differs", [])
    drawn: dict[str, list[dict[str, Any]]] = defaultdict(list)
    turns = [(rank, code) for code, some in first.items() for rank in range(min(len(some), _DRAWN_EACH))]
    for rank, code in sorted(turns, key=lambda turn: turn[0])[:_DRAWN]:
        finding = first[code][rank]
        path = finding.place.image or ""
        box = finding.box
        picture = studio.around(box, images[path], _FAULT_SIDE) if box else studio.whole(path, _FAULT_SIDE)
        if picture:
            drawn[code].append({"path": path, "what": finding.what, "where": _where(finding), "picture": picture})
    return drawn


def _row(finding: Finding, codes: list[str], names: dict[str | None, int]) -> list[Any]:
    """Numbers of code, file and image, with line or annotation, and what is wrong."""
    place = finding.place
    file, image = (names.setdefault(name, len(names)) for name in (place.file, place.image))
    return [codes.index(finding.code), file, _where(finding), image, finding.what]


def _where(finding: Finding) -> str:
    line, annotation = finding.place.line, finding.place.annotation
    return f"line {line}" if line is not None else f"annotation {annotation}" if annotation is not None else ""
