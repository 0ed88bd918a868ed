"""records/: what is true of a run and not of its result, a file for each result, in git."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.provenance import RUN_FILE
from rfdetr_core.base.schema import checked
from rfdetr_core.checkpoint.schema import RunNote

FOLDER = Path("records")


def write_record(folder: Path, model: Path, lineage: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
    """Write <tensor digest>.json: the lineage, the digests of the model file, and the facts of the run.

    A record of the same file and lineage stays as it is: to make a result again is no second result.
    """
    path = folder / f"{lineage['tensors']}.json"
    file = {"md5": files.md5_file(model), "sha256": files.sha256_file(model), "size": model.stat().st_size}
    content = {"lineage": dict(lineage), "file": file}
    known = files.read_json(path) if path.exists() else {}
    if {key: known.get(key) for key in content} != content:
        files.write_json(path, content | {"run": dict(run)})
    return path


def read_run(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the training in a run folder noted of itself; nothing if it was another training than that of `record`."""
    path = folder / RUN_FILE
    noted = checked(files.read_json(path), RunNote, str(path)) if path.exists() else {}
    return noted["run"] if noted.get("record") == files.digest(record) else {}
