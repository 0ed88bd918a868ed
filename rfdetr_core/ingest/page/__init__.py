"""The dataset report: one page that shows what a dataset holds and what is wrong with it, and asks for no other file.

All text and numbers stand in it as JSON, which page.js makes elements of: names of files and classes are never markup.
Of findings it has a table of bounded length, a group for each code, and pictures of some.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.manifest import SPLITS
from rfdetr_core.ingest.clean import CleanDataset, Pair
from rfdetr_core.ingest.findings import Finding, Findings
from rfdetr_core.ingest.page import counts, pictures
from rfdetr_core.ingest.page.pictures import Studio
from rfdetr_core.ingest.rules import RULES

_SCRIPTS = ("elements.js", "tables.js", "charts.js", "pictures.js", "page.js")
_GRID, _GRID_SIDE = 36, 416
_ROWS = 10_000
_DRAWN, _DRAWN_EACH = 60, 6
_PAIRS = 24
_FAULT_SIDE, _PAIR_SIDE = 240, 288


def write_page(reports: Path, root: Path, dataset: CleanDataset | None, findings: Findings) -> None:
    """Write index.html into `reports`: equal bytes for an equal dataset, wherever it is.

    dataset: None where the labels cannot be understood; the page has the findings alone then.
    """
    data: dict[str, Any] = {"findings": _tell(findings, dataset, Studio(root))}
    data["stopped"] = bool(findings.stopping) or dataset is None
    if dataset is not None:
        data["counts"] = counts.count(dataset)
        studio = Studio(root)
        shown = ((name, image, studio.annotated(image, _GRID_SIDE)) for name, image in pictures.choose(dataset, _GRID))
        data["pictures"] = [{"split": name, "path": one.path, "picture": made} for name, one, made in shown if made]
        data["pairs"] = _show_pairs(dataset, findings, Studio(root))
    files.write_text(reports / "index.html", _render(data))


def _render(data: dict[str, Any]) -> str:
    """The template with style, scripts and data. Scripts and styles run only if their digest is in the policy."""
    folder = Path(__file__).parent
    style = files.read_text(folder / "page.css")
    script = "\n".join(["'use strict';", *(files.read_text(folder / name) for name in _SCRIPTS)])
    # Inside a script element only < could end it, or begin a comment.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}"
    policy += "; base-uri 'none'; form-action 'none'"
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": text}
    template = files.read_text(folder / "page.html")
    return re.sub(r"@(POLICY|STYLE|SCRIPT|DATA)@", lambda match: parts[match[1]], template)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _tell(findings: Findings, dataset: CleanDataset | None, studio: Studio) -> dict[str, Any]:
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


def _show_pairs(dataset: CleanDataset, findings: Findings, studio: Studio) -> dict[str, Any]:
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
        sides = [
            {"path": path, "split": " and ".join(splits[path]) or "left out", "picture": studio.whole(path, _PAIR_SIDE)}
            for path in (pair.path, pair.other)
        ]
        if all(side["picture"] for side in sides):
            shown.append({"sides": sides, "distance": pair.distance, "equal": pair.path in equal})
    return {"total": len(dataset.pairs), "shown": shown}


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
