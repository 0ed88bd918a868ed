"""records/: what is true of a run and not of its result, a file for each result, in git."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.provenance import RUN_FILE

FOLDER = Path("records")
_OF_TRAINING = ("params", "inputs", "files", "counts", "parents", "code", "packages", "machine")


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
    noted = files.read_json(path) if path.exists() else {}
    return noted["run"] if noted.get("record") == files.digest(record) else {}


def is_whole(lineage: Any) -> bool:
    """Whether a lineage, which anyone may have written, has the parts that are read of it."""
    try:
        training = lineage["training"]
        dicts = [lineage["selection"], lineage["code"], *(training[key] for key in _OF_TRAINING)]
        named = (training["files"] or {}).values()
        return (
            all(isinstance(one, dict | None) for one in dicts)
            and isinstance(lineage["tensors"], str)
            and all(isinstance(one["git"], str) for one in named)
        )
    except (KeyError, TypeError, AttributeError):
        return False
