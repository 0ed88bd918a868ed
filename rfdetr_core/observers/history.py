"""What loggers are fed from: history.csv has every epoch, so that what could not be sent is never lost."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core import files


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """The values of each epoch; without those that are not finite. No file: no epoch."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    values = [{key: float(value) for key, value in row.items() if value} for row in rows]
    return {int(row.pop("epoch")): row for row in values}


def fingerprint(record: Mapping[str, Any]) -> str:
    """One name for everything that decides a result: loggers find the run of a resumed training by it."""
    return files.digest(record)


def main_repository() -> Path:
    """The folder of the project, also from within the copy in which `dvc exp run --temp` works."""
    here = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    copies = [parent for parent in (here, *here.parents) if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here
