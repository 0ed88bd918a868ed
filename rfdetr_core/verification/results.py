"""Model files against lineage, records and each other; the best file stripped again."""

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
from rfdetr_core.verification.claims import SELECTION, check_custom, check_lineage, check_past, check_training
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.remade import check_best
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.steps import check_weights

_BEST = "output/checkpoint_best_{}.pth"


def check_project(report: Report, contents: Contents, pipeline: Pipeline, record: Mapping[str, Any] | None) -> None:
    """The model files in output/; record: that of the model which dvc.lock names."""
    training: Mapping[str, Any] | None = (record or {}).get("lineage", {}).get("training")
    selection = None
    total = _read(report, contents.root / MODEL, MODEL)
    lineage = None
    if total is not None and check_own(report, total, tensor_digest(total.weights), MODEL, record):
        lineage = total.lineage or {}
        training, selection = lineage.get("training"), lineage.get("selection") or {}
        check_lineage(report, contents, pipeline, lineage, f"lineage of {MODEL}")
        check_past(report, History(contents.root), lineage.get("training") or {}, f"lineage of {MODEL}")
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
            _compare(report, f"origin in {name}", training, best.training_record or {}, f"lineage of {MODEL}")
        check_training(report, contents, pipeline, best.training_record or {}, f"origin in {name}")
        check_best(report, contents, pipeline, track, best, name)
        epoch = None if best.epoch is None else best.epoch + 1  # in model files they count from 0
        check_weights(report, contents, name, track, epoch, tensor_digest(best.weights))
        if total is not None and selection and selection.get("winner") == track:
            report.equal(f"weights of {MODEL}", tensor_digest(best.weights), tensor_digest(total.weights), name)
    if total is not None and lineage is not None and selection:
        _strip_again(report, contents, pipeline, lineage)
    _check_parents(report, contents, training or {})


def check_file(report: Report, path: Path, archive: Archive) -> None:
    """A model file from anywhere, by itself and the history."""
    checkpoint = _read(report, path, str(path))
    if checkpoint is None:
        return
    tensors = tensor_digest(checkpoint.weights)
    runs = check_making(report, path, checkpoint, tensors, archive)
    if runs is None:
        return
    md5 = files.md5_file(path)
    if archive.introduced(md5):
        report.checked += 1
    elif not runs:
        _check_unknown(report, path, checkpoint, tensors, archive.history)
    elif all(one["file"]["md5"] != md5 for one in runs):
        report.note(f"{path} was saved again: its weights are recorded, its bytes are others")
    else:
        report.skip(f"{LOCK} with {path}", "not committed: no commit here has it")


def check_making(
    report: Report, path: Path, checkpoint: Checkpoint, tensors: str, archive: Archive
) -> list[dict[str, Any]] | None:
    """What a file with these weights says of their making, against records and manifests; tensors: their digest.

    Returns the records of these weights. None: the file says nothing, and there are none.
    """
    sha256 = files.sha256_file(path)
    runs = archive.runs_of(sha256, tensors, checkpoint)
    if not runs:
        here = Archive(History(archive.history.root, working_tree=True))
        runs = [one for one in here.runs_of(sha256, tensors, checkpoint) if one["file"]["sha256"] == sha256]
        for record in runs:
            report.skip(f"record of {path}", f"not committed: git add {title_of(record)}")
    lineage = checkpoint.lineage
    if lineage is not None:
        said = runs or archive.runs_of(sha256, str(lineage.get("tensors")), checkpoint)
        if not said:
            report.skip(f"lineage of {path}", "gone: no record of it in this history")
        elif len(said) > 1:  # none of them has this lineage
            report.wrong(
                f"lineage of {path}", f"that of one of {', '.join(map(title_of, said))}", "another", "records/"
            )
        check_own(report, checkpoint, tensors, str(path), said[0] if len(said) == 1 else None)
    elif runs and (checkpoint.args or checkpoint.model_config or checkpoint.model_name):
        _check_description(report, checkpoint, str(path), runs[0]["lineage"])
    origins = [checkpoint.training] if checkpoint.training else [one["lineage"]["training"] for one in runs]
    if not origins:
        report.wrong(f"lineage of {path}", "an entry in the file, or a record of its weights", None, "records/")
        return None
    for origin in origins:
        check_custom(report, origin, f"lineage of {path}")
        check_past(report, archive.history, origin, f"lineage of {path}")
    return runs


def _check_unknown(report: Report, path: Path, checkpoint: Checkpoint, tensors: str, history: History) -> None:
    """Weights that no record and no dvc.lock has: whoever made them, it was not this project."""
    name = f"weights of {path}"
    if {"run", "optimizer_states"} <= {*checkpoint.other_keys}:
        report.skip(name, "the file is a state to resume from, and of these neither records nor dvc.lock have any")
    else:
        check_unrecorded(report, name, tensors, history)


def check_unrecorded(report: Report, name: str, tensors: str, history: History) -> None:
    """Weights that no record has, in a file that nothing else vouches for."""
    if history.shallow:
        report.skip(name, "this clone is shallow: git fetch --unshallow")
    else:
        report.wrong(name, "weights that this history has in a record or dvc.lock", tensors, "records/, dvc.lock")


def _read(report: Report, path: Path, name: str) -> Checkpoint | None:
    if not path.is_file():
        report.skip(name, "gone: it is not here")
        return None
    try:
        return read_checkpoint(path)
    except UserError as error:
        report.wrong(name, "a model file", str(error), "reading it")
        return None


def check_own(
    report: Report, checkpoint: Checkpoint, tensors: str, name: str, record: Mapping[str, Any] | None
) -> bool:
    """What a file says of itself, and its record; tensors: the digest of its weights. Whether it has a lineage."""
    lineage = checkpoint.lineage
    if lineage is None:
        report.wrong(f"lineage of {name}", "an entry", None, "strip writes one")
        return False
    report.equal(f"weights of {name}", lineage.get("tensors"), tensors, "its lineage")
    report.equal(f"variant of {name}", lineage.get("variant"), checkpoint.model_name, "its lineage")
    _check_description(report, checkpoint, name, lineage)
    winner = (lineage.get("selection") or {}).get("winner")
    report.equal(f"best_total_source of {name}", winner, checkpoint.best_total_source, "its lineage")
    more = ", ".join((*checkpoint.unknown, *checkpoint.other_keys))
    report.equal(f"what {name} holds beside the model", None, more or None, "strip writes nothing else")
    if record is not None:
        by = f"records/{record['lineage']['tensors'][:16]}...json"
        _compare(report, f"lineage of {name}", record["lineage"], lineage, by)
    return True


def _check_description(report: Report, checkpoint: Checkpoint, name: str, lineage: Mapping[str, Any]) -> None:
    found = description_digest(checkpoint)
    report.equal(f"classes and configuration of {name}", lineage.get("description"), found, "its lineage")


def _compare(report: Report, what: str, expected: Mapping[str, Any], found: Mapping[str, Any], by: str) -> None:
    before, after = flattened(expected), flattened(found)
    for key in sorted(before.keys() | after.keys()):
        report.equal(f"{what}: {key}", before.get(key), after.get(key), by)


def _strip_again(report: Report, contents: Contents, pipeline: Pipeline, lineage: Mapping[str, Any]) -> None:
    """Strip the winner into a temporary folder. With other code than the lineage names, its bytes may differ."""
    if lineage.get("code") != strip_code():
        report.skip(f"{MODEL}, stripped again", "changed: the code of strip is not that of the lineage")
        return
    with tempfile.TemporaryDirectory() as temporary, contextlib.suppress(OSError, ValueError, KeyError, UserError):
        selection = json.loads(files.read_bytes(contents.root / SELECTION))
        made = Path(temporary) / "stripped.pth"
        strip(contents.root / "output", selection, made, Path(temporary) / "records")
        report.equal(f"{MODEL}, stripped again", pipeline.lock.out(MODEL), files.md5_file(made), LOCK)
        return
    report.skip(f"{MODEL}, stripped again", "gone: the winner or the selection is not here")


def _check_parents(report: Report, contents: Contents, training: Mapping[str, Any]) -> None:
    for parent in (training.get("parents") or {}).values():
        name = f"weights/{parent['name']}"
        checkpoint = _read(report, contents.root / name, name)
        if checkpoint is not None:
            found = tensor_digest(checkpoint.weights)
            report.equal(f"weights of {name}", parent["tensors"], found, f"lineage of {MODEL}")


def _check_machine(report: Report, training: Mapping[str, Any]) -> None:
    """Say where results cannot be expected to have the same bytes if they were made again here."""
    if (training.get("params") or {}).get("train", {}).get("portable"):
        return
    told = training.get("machine") or {}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    here = {
        "device": device,
        "cpu": cpu_kind(),
        "processor": environment.processor(),
        "settings": environment.settings(),
    }
    # A training on a GPU has no processor in its record, and an older one no settings either.
    known = {key: value for key, value in here.items() if key in told}
    differing = [f"{key} {told[key]}, here {value}" for key, value in known.items() if told[key] != value]
    if differing:
        report.note(f"trained on another kind of machine ({'; '.join(differing)}): compare scores, not bytes")


def identity_of(contents: Contents) -> dict[str, Any] | None:
    """The digests of the model at hand, as an evaluation names them."""
    path = contents.root / MODEL
    if not path.is_file():
        return None
    with contextlib.suppress(UserError):
        return provenance.identity(path) | {"tensors": tensor_digest(read_checkpoint(path).weights)}
    return provenance.identity(path)
