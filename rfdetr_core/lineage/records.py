"""records/: a file for each run, in git: the lineage and the digests of its model file, and facts of the run itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files, git
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import RUN_FILE
from rfdetr_core.base.schema import checked
from rfdetr_core.checkpoint.schema import RunNote

FOLDER = Path("records")
RECORD = Path("output/record.json")  # the record of the present model: an out of strip, which DVC's experiments carry


def write_record(folder: Path, model: Path, lineage: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
    """Write the record of a run into `folder`, and the same content as record.json beside the model.

    A record holds the lineage, the digests of the model file, and the facts of the run. If the run has a record, that
    one is kept, and nothing replaces it: here, or at HEAD beside the model, where `dvc exp apply` leaves it.

    Raises:
        UserError: the file with the record's name is another record, so somebody changed it.
    """
    file = {"md5": files.md5_file(model), "sha256": files.sha256_file(model), "size": model.stat().st_size}
    content = {"lineage": dict(lineage), "file": file}
    beside = model.with_name(RECORD.name)
    _keep_committed(folder, beside)
    path = _place(folder, content)
    if not path.exists():
        files.write_json(path, content | {"run": dict(run)})
    elif run_digest(files.read_json(path)) != run_digest(content):
        raise UserError(f"{path} was changed: its content is not that of its name. Restore it: git restore {path}")
    files.write_bytes(beside, files.read_bytes(path))
    return path


def _keep_committed(folder: Path, beside: Path) -> None:
    """Copy the record that HEAD has beside the model into `folder`, if it is of a run that has none there."""
    done = git.run(beside.parent, "cat-file", "blob", f"HEAD:./{beside.name}")
    try:
        path = _place(folder, json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        return  # nothing was committed, or it is damaged
    if not path.exists():
        files.write_bytes(path, done.stdout)


def _place(folder: Path, record: Mapping[str, Any]) -> Path:
    """Where a run has its record: under its own name, or as in older histories."""
    new, old = (folder / name for name in record_names(record))
    return old if old.exists() and run_digest(files.read_json(old)) == run_digest(record) else new


def run_digest(record: Any) -> str | None:
    """What distinguishes a run from others: the digest of its lineage and its file; None if it is not a record."""
    try:
        return files.digest({"lineage": record["lineage"], "file": record["file"]})
    except (KeyError, TypeError, ValueError):
        return None


def record_names(record: Mapping[str, Any]) -> tuple[str, str]:
    """The names that a record can have in records/: by weights and run; and, as in older histories, by weights alone.

    Raises:
        KeyError, TypeError, ValueError: it is not a record.
    """
    tensors, run = record["lineage"]["tensors"], run_digest(record)
    if run is None or not re.fullmatch("[0-9a-f]{64}", tensors):
        raise ValueError("not a record")
    return f"{tensors[:16]}-{run[:16]}.json", f"{tensors}.json"


def read_run(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the training in a run folder noted of itself; nothing if it was another training than that of `record`."""
    path = folder / RUN_FILE
    noted = checked(files.read_json(path), RunNote, str(path)) if path.exists() else {}
    return noted["run"] if noted.get("record") == files.digest(record) else {}
