"""Run records: a file in records/ for each run, with the lineage and digests of its model file and facts of the run."""

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
RECORD = Path("output/record.json")  # the record of the current model, an out of strip; DVC experiments include it


def write_record(folder: Path, model: Path, lineage: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
    """Write the record of a run into `folder`, and a copy beside the model, as record.json.

    A record has the lineage, the digests of the model file, and the facts of the run. If the same run already has a
    record, that record is kept. It is in `folder`. After a DVC experiment, it may be only in the record.json of the
    commit HEAD.

    Args:
        folder: The folder records/.
        model: The model file.
        lineage: Its lineage.
        run: The facts of the run.

    Raises:
        UserError: The file with the record's name has other content, so it was changed.
    """
    file = {"md5": files.md5_file(model), "sha256": files.sha256_file(model), "size": model.stat().st_size}
    content = {"lineage": dict(lineage), "file": file}
    beside = model.with_name(RECORD.name)
    _keep_committed(folder, beside)
    path = _record_path(folder, content)
    if not path.exists():
        files.write_json(path, content | {"run": dict(run)})
    elif run_digest(files.read_json(path)) != run_digest(content):
        raise UserError(f"{path} was changed: its content does not match its name. Restore it: git restore {path}")
    files.write_bytes(beside, files.read_bytes(path))
    return path


def _keep_committed(folder: Path, beside: Path) -> None:
    """Copy the record that HEAD has beside the model into `folder`, if `folder` lacks the record of that run."""
    done = git.run(beside.parent, "cat-file", "blob", f"HEAD:./{beside.name}")
    try:
        path = _record_path(folder, json.loads(done.stdout))
    except (ValueError, KeyError, TypeError):
        return  # there is no committed record, or it is damaged
    if not path.exists():
        files.write_bytes(path, done.stdout)


def _record_path(folder: Path, record: Mapping[str, Any]) -> Path:
    """The path of a run's record: the older form of its name if that file exists, else the current form."""
    new, old = (folder / name for name in record_names(record))
    return old if old.exists() and run_digest(files.read_json(old)) == run_digest(record) else new


def run_digest(record: Any) -> str | None:
    """The digest of a record's lineage and file, which identifies the run; None if it is not a record."""
    try:
        return files.digest({"lineage": record["lineage"], "file": record["file"]})
    except (KeyError, TypeError, ValueError):
        return None


def record_names(record: Mapping[str, Any]) -> tuple[str, str]:
    """The two file names that a record can have in records/.

    The current name has the digests of weights and run. In older histories it has only the digest of the weights.

    Raises:
        KeyError, TypeError, ValueError: The mapping is not a record.
    """
    tensors, run = record["lineage"]["tensors"], run_digest(record)
    if run is None or not re.fullmatch("[0-9a-f]{64}", tensors):
        raise ValueError("not a record")
    return f"{tensors[:16]}-{run[:16]}.json", f"{tensors}.json"


def read_run(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the run in a run folder; empty if another training wrote them.

    Args:
        folder: The run folder.
        record: The training record of the expected training.
    """
    path = folder / RUN_FILE
    note = checked(files.read_json(path), RunNote, str(path)) if path.exists() else {}
    return note["run"] if note.get("record") == files.digest(record) else {}
