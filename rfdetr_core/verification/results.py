"""Checks of checkpoints: their lineage, run records, weights and parents; the best file is stripped again."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rfdetr_core.audit.history import MODEL, History
from rfdetr_core.audit.trace import Archive, title_of
from rfdetr_core.base import environment, files, provenance
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.provenance import flattened
from rfdetr_core.checkpoint.files import Checkpoint, read_checkpoint, tensor_digest
from rfdetr_core.lineage.compose import description_digest, strip_code
from rfdetr_core.lineage.lock import LOCK
from rfdetr_core.selection.strip import strip
from rfdetr_core.training.trainer import cpu_kind
from rfdetr_core.verification.claims import SELECTION, check_custom, check_git_manifests, check_lineage, check_training
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.recomputed import check_best
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.steps import check_weights

_BEST = "output/checkpoint_best_{}.pth"


def check_project(report: Report, contents: Contents, pipeline: Pipeline, record: Mapping[str, Any] | None) -> None:
    """Check the model files in output/.

    Args:
        report: Receives the mismatches.
        contents: The working tree.
        pipeline: dvc.yaml and dvc.lock.
        record: The run record of the model that dvc.lock names; None: there is none.
    """
    training: Mapping[str, Any] | None = (record or {}).get("lineage", {}).get("training")
    selection = None
    total = _read(report, contents.root / MODEL, MODEL)
    lineage = None
    if total is not None and check_own_lineage(report, total, tensor_digest(total.weights), MODEL, record):
        lineage = total.lineage or {}
        training, selection = lineage.get("training"), lineage.get("selection") or {}
        check_lineage(report, contents, pipeline, lineage, f"lineage of {MODEL}")
        check_git_manifests(report, History(contents.root), lineage.get("training") or {}, f"lineage of {MODEL}")
        _check_machine(report, lineage.get("training") or {})
        winner = str(selection.get("winner"))
        epoch = (selection.get(winner) or {}).get("epoch")
        check_weights(report, contents, MODEL, winner, epoch, tensor_digest(total.weights))
    for track in ("ema", "regular"):
        name = _BEST.format(track)
        best = _read(report, contents.root / name, name)
        if best is None:
            continue
        if training is not None:
            _compare(report, f"training record of {name}", training, best.training_record or {}, f"lineage of {MODEL}")
        check_training(report, contents, pipeline, best.training_record or {}, f"training record of {name}")
        check_best(report, contents, pipeline, track, best, name)
        epoch = None if best.epoch is None else best.epoch + 1  # model files count epochs from 0
        check_weights(report, contents, name, track, epoch, tensor_digest(best.weights))
        if total is not None and selection and selection.get("winner") == track:
            report.equal(f"weights of {MODEL}", tensor_digest(best.weights), tensor_digest(total.weights), name)
    if total is not None and lineage is not None and selection:
        _strip_again(report, contents, pipeline, lineage)
    _check_parents(report, contents, training or {})


def check_file(report: Report, path: Path, archive: Archive) -> None:
    """Check any model file: its own content, and the records and dvc.lock files in the history.

    Args:
        report: Receives the mismatches.
        path: The model file.
        archive: The records and dvc.lock files in the history.
    """
    checkpoint = _read(report, path, str(path))
    if checkpoint is None:
        return
    tensors = tensor_digest(checkpoint.weights)
    runs = check_trainings(report, path, checkpoint, tensors, archive)
    if runs is None:
        return
    md5 = files.md5_file(path)
    if archive.first_link(md5):
        report.checked += 1
    elif not runs:
        _check_unknown(report, path, checkpoint, tensors, archive.history)
    elif all(record["file"]["md5"] != md5 for record in runs):
        report.note(f"{path} was saved again: its weights are recorded, but its bytes differ")
    else:
        report.skip(f"{LOCK} with {path}", "not committed: no committed dvc.lock in this clone names the file")


def check_trainings(
    report: Report, path: Path, checkpoint: Checkpoint, tensors: str, archive: Archive
) -> list[dict[str, Any]] | None:
    """Compare the lineage of a file with the run records and manifests in the history.

    Args:
        report: Receives the mismatches.
        path: The model file.
        checkpoint: Its content; of an exported file, what it carries of its source checkpoint.
        tensors: Its weights digest.
        archive: The records in the history.

    Returns:
        The run records of these weights. None if there are none and the file has no lineage either.
    """
    sha256 = files.sha256_file(path)
    runs = archive.runs_of(sha256, tensors, checkpoint)
    if not runs:
        archive_with_tree = Archive(History(archive.history.root, working_tree=True))
        runs = [
            record
            for record in archive_with_tree.runs_of(sha256, tensors, checkpoint)
            if record["file"]["sha256"] == sha256
        ]
        for record in runs:
            report.skip(f"record of {path}", f"it is not committed. Run: git add {title_of(record)}")
    lineage = checkpoint.lineage
    if lineage is not None:
        records = runs or archive.runs_of(sha256, str(lineage.get("tensors")), checkpoint)
        if not records:
            report.skip(f"lineage of {path}", "missing: this history has no run record of the file")
        elif len(records) > 1:  # no record has this lineage
            report.wrong(
                f"lineage of {path}",
                f"the lineage in one of {', '.join(map(title_of, records))}",
                "another lineage",
                "records/",
            )
        check_own_lineage(report, checkpoint, tensors, str(path), records[0] if len(records) == 1 else None)
    elif runs and (checkpoint.args or checkpoint.model_config or checkpoint.model_name):
        _check_description(report, checkpoint, str(path), runs[0]["lineage"])
    trainings = [checkpoint.training] if checkpoint.training else [record["lineage"]["training"] for record in runs]
    if not trainings:
        report.wrong(f"lineage of {path}", "a lineage in the file, or a record of its weights", None, "records/")
        return None
    for training in trainings:
        check_custom(report, training, f"lineage of {path}")
        check_git_manifests(report, archive.history, training, f"lineage of {path}")
    return runs


def _check_unknown(report: Report, path: Path, checkpoint: Checkpoint, tensors: str, history: History) -> None:
    """Report weights that no run record and no dvc.lock has: this project did not make them."""
    name = f"weights of {path}"
    if {"run", "optimizer_states"} <= {*checkpoint.other_keys}:
        report.skip(name, "the file is a state to resume from; records and dvc.lock never name such files")
    else:
        check_unrecorded(report, name, tensors, history)


def check_unrecorded(report: Report, name: str, tensors: str, history: History) -> None:
    """Report an unconfirmed file whose weights are in no run record.

    Args:
        report: Receives the mismatch.
        name: What is checked, for the message.
        tensors: The weights digest of the file.
        history: The history of the project.
    """
    if history.shallow:
        report.skip(name, "this clone is shallow. Run: git fetch --unshallow")
    else:
        report.wrong(name, "weights that a record or dvc.lock in this history has", tensors, "records/, dvc.lock")


def _read(report: Report, path: Path, name: str) -> Checkpoint | None:
    if not path.is_file():
        report.skip(name, "missing: not in this clone")
        return None
    try:
        return read_checkpoint(path)
    except UserError as error:
        report.wrong(name, "a model file", f"an error: {error}", "reading it")
        return None


def check_own_lineage(
    report: Report, checkpoint: Checkpoint, tensors: str, name: str, record: Mapping[str, Any] | None
) -> bool:
    """Compare a file's content with its lineage, and the lineage with the run record. Returns whether it has a lineage.

    Args:
        report: Receives the mismatches.
        checkpoint: The content of the file.
        tensors: Its weights digest.
        name: The name of the file for messages.
        record: The run record of the file; None if there is none.
    """
    lineage = checkpoint.lineage
    if lineage is None:
        report.wrong(f"lineage of {name}", "a lineage", None, "strip writes one")
        return False
    report.equal(f"weights of {name}", lineage.get("tensors"), tensors, "its lineage")
    report.equal(f"variant of {name}", lineage.get("variant"), checkpoint.model_name, "its lineage")
    _check_description(report, checkpoint, name, lineage)
    winner = (lineage.get("selection") or {}).get("winner")
    report.equal(f"best_total_source of {name}", winner, checkpoint.best_total_source, "its lineage")
    extra = ", ".join((*checkpoint.unknown, *checkpoint.other_keys))
    report.equal(f"content of {name} besides the model", None, extra or None, "strip writes nothing else")
    if record is not None:
        source = f"records/{record['lineage']['tensors'][:16]}...json"
        _compare(report, f"lineage of {name}", record["lineage"], lineage, source)
    return True


def _check_description(report: Report, checkpoint: Checkpoint, name: str, lineage: Mapping[str, Any]) -> None:
    actual = description_digest(checkpoint)
    report.equal(f"classes and configuration of {name}", lineage.get("description"), actual, "its lineage")


def _compare(report: Report, subject: str, expected: Mapping[str, Any], actual: Mapping[str, Any], source: str) -> None:
    before, after = flattened(expected), flattened(actual)
    for key in sorted(before.keys() | after.keys()):
        report.equal(f"{subject}: {key}", before.get(key), after.get(key), source)


def _strip_again(report: Report, contents: Contents, pipeline: Pipeline, lineage: Mapping[str, Any]) -> None:
    """Strip the winner into a temporary folder and compare bytes, if the code is that of the lineage."""
    if lineage.get("code") != strip_code():
        report.skip(f"{MODEL}, stripped again", "the code of strip differs from the code in the lineage")
        return
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(OSError, ValueError, KeyError, UserError):
        selection = json.loads(files.read_bytes(contents.root / SELECTION))
        output = Path(temporary) / "stripped.pth"
        strip(contents.root / "output", selection, output, Path(temporary) / "records")
        report.equal(f"{MODEL}, stripped again", pipeline.lock.out(MODEL), files.md5_file(output), LOCK)
        return
    report.skip(
        f"{MODEL}, stripped again", "missing: the best file of the winner or the selection is not in this clone"
    )


def _check_parents(report: Report, contents: Contents, training: Mapping[str, Any]) -> None:
    for parent in (training.get("parents") or {}).values():
        name = f"weights/{parent['name']}"
        checkpoint = _read(report, contents.root / name, name)
        if checkpoint is not None:
            actual = tensor_digest(checkpoint.weights)
            report.equal(f"weights of {name}", parent["tensors"], actual, f"lineage of {MODEL}")


def _check_machine(report: Report, training: Mapping[str, Any]) -> None:
    """Note if the machine differs from that of the training, so that a run here may give other bytes."""
    if (training.get("params") or {}).get("train", {}).get("portable"):
        return
    recorded = training.get("machine") or {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    own_machine = {
        "device": device,
        "cpu": cpu_kind(),
        "processor": environment.processor(),
        "settings": environment.settings(),
    }
    # The record of a GPU training has no processor; older records have no settings.
    recorded_keys = {key: value for key, value in own_machine.items() if key in recorded}
    differing = [
        f"{key} {recorded[key]}, here {value}" for key, value in recorded_keys.items() if recorded[key] != value
    ]
    if differing:
        report.note(
            f"the model was trained on another kind of machine ({'; '.join(differing)}). Compare scores, not bytes"
        )


def local_model_digests(contents: Contents) -> dict[str, Any] | None:
    """The digests of the local model, as in the lineage of an evaluation; None if there is no model."""
    path = contents.root / MODEL
    if not path.is_file():
        return None
    with contextlib.suppress(UserError):
        return provenance.identity(path) | {"tensors": tensor_digest(read_checkpoint(path).weights)}
    return provenance.identity(path)
