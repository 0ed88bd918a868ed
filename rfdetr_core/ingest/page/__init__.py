"""The dataset report: one page that shows what a dataset holds and what is wrong with it, and asks for no other file.

All text and numbers stand in it as JSON, which page.js makes elements of: names of files and classes are never markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.page import counts, faults, pictures

_SCRIPTS = ("elements.js", "tables.js", "charts.js", "pictures.js", "page.js")
_GRID, _GRID_SIDE = 36, 416


def write_page(reports: Path, root: Path, dataset: CleanDataset | None, findings: Findings) -> None:
    """Write index.html into `reports`: equal bytes for an equal dataset, wherever it is.

    dataset: None where the labels cannot be understood; the page has the findings alone then.
    """
    data: dict[str, Any] = {"findings": faults.tell(findings, dataset, pictures.Studio(root))}
    data["stopped"] = bool(findings.stopping) or dataset is None
    if dataset is not None:
        data["counts"] = counts.count(dataset)
        studio = pictures.Studio(root)
        shown = ((name, image, studio.annotated(image, _GRID_SIDE)) for name, image in pictures.choose(dataset, _GRID))
        data["pictures"] = [{"split": name, "path": one.path, "picture": made} for name, one, made in shown if made]
        data["pairs"] = faults.show_pairs(dataset, findings, pictures.Studio(root))
    files.write_text(reports / "index.html", _render(data))


def _render(data: dict[str, Any]) -> str:
    """The template with style, scripts and data. Scripts and styles run only if their digest is in the policy."""
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join(["'use strict';", *((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)])
    # Inside a script element only < could end it, or begin a comment.
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {_source(style)}",
            f"script-src {_source(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    parts = {"POLICY": policy, "STYLE": style, "SCRIPT": script, "DATA": text}
    template = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"@(POLICY|STYLE|SCRIPT|DATA)@", lambda match: parts[match[1]], template)


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
