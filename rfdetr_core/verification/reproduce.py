"""`verify --reproduce`: run the whole pipeline again in a clean clone of HEAD and compare every byte."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rfdetr_core.audit.history import EVALUATION, MODEL
from rfdetr_core.base import files, git
from rfdetr_core.base.chain import first_difference
from rfdetr_core.base.dvc_config import cache_folder
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import changed_digests
from rfdetr_core.base.imports import refuse_bytecode
from rfdetr_core.base.schema import checked
from rfdetr_core.checkpoint.schema import RecordFile
from rfdetr_core.selection.select import TRACKS
from rfdetr_core.verification.claims import SCORES
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.lock import Pipeline, value_at
from rfdetr_core.verification.recomputed import HISTORY, METRICS
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.steps import STEPS

_REMOTE = "cache-of-the-original"
# On another kind of machine: the largest allowed difference of a score in 0..1.
TOLERANCE = 0.02


def reproduce(root: Path) -> Report:
    """Clone HEAD into a temporary folder, fetch what DVC tracks, run every stage, compare each out with dvc.lock.

    The project itself and its cache are only read.

    Raises:
        UserError: There is no project or no dvc.lock, the dataset cannot be fetched, or a stage fails.
    """
    report, original = Report(), Contents(root)
    changed = [name for name in original.differs_from_head(".") if name in original.tracked]
    if changed:
        report.note(f"HEAD was reproduced, without these uncommitted changes: {', '.join(changed[:5])}")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as temporary:
        top, clone = git.toplevel(original.root), Path(temporary) / "clone"
        git.text(original.root, "clone", "-q", str(top), str(clone))
        folder = clone / original.root.relative_to(top)
        refuse_bytecode(folder)
        contents, pipeline = Contents(folder), Pipeline.read(folder)
        present = [name for name in (HISTORY, STEPS, SCORES, METRICS) if (folder / name).exists()]
        committed = {name: files.read_bytes(folder / name) for name in present}
        _fetch(original, contents, folder)
        _run(folder, "dvc", "repro", "--force", "--no-run-cache")
        compare_outs(report, Contents(folder), pipeline, committed, _other_machine(Contents(folder), pipeline))
    return report


def _fetch(original: Contents, contents: Contents, folder: Path) -> None:
    """Fetch the files that .dvc files track, from the cache of the original, else from the default remote."""
    pointers = [name for name in sorted(contents.tracked) if name.endswith(".dvc") and (folder / name).is_file()]
    if not pointers:
        return
    _run(folder, "dvc", "remote", "add", "-q", "--local", _REMOTE, str(cache_folder(original.root).resolve()))
    try:
        _run(folder, "dvc", "pull", "-q", "-r", _REMOTE, *pointers)
    except UserError:
        _run(folder, "dvc", "pull", "-q", *pointers)


def compare_outs(
    report: Report, contents: Contents, pipeline: Pipeline, committed: dict[str, bytes], machine_difference: str
) -> None:
    """Compare the outs with dvc.lock, stage by stage. On another kind of machine, compare the scores instead.

    Args:
        report: Receives the mismatches.
        contents: The clone, after the run.
        pipeline: dvc.yaml and dvc.lock as committed.
        committed: The committed contents of history.csv, steps.csv, scores.json and metrics.json, by path.
        machine_difference: How the machine differs from the recorded one; empty if it does not.
    """
    differing: dict[str, list[tuple[str, str, str | None]]] = {}
    for stage in dict.fromkeys([*pipeline.stages, *pipeline.lock.stages]):
        for path, md5 in pipeline.lock.stages[stage].outs.items() if stage in pipeline.lock.stages else ():
            report.checked += 1
            actual = contents.md5(path)
            if actual != md5:
                differing.setdefault(stage, []).append((path, md5, actual))
    if not differing:
        return
    first = next(iter(differing))
    stage_note = f"first stage that differs: {first}"
    if first == "train":
        stage_note += first_step(committed.get(STEPS), contents.root / STEPS) or first_epoch(
            committed.get(HISTORY), files.read_bytes(contents.root / HISTORY)
        )
    if machine_difference and not {"validate", "convert"} & differing.keys():
        report.note(
            f"the recorded result was made on another kind of machine ({machine_difference}). Its bytes differ "
            f"({stage_note}), so only the scores are compared"
        )
        report.skip(
            f"bytes of the outs of {', '.join(differing)}",
            f"this is another kind of machine. Scores within {TOLERANCE} do not prove that the weights are the same. "
            "Repeat this on a machine of the recorded kind",
        )
        _compare_scores(report, contents.root, committed)
        return
    report.note(stage_note)
    for stage, outs in differing.items():
        for path, expected, actual in outs:
            report.wrong(path, expected, actual, f"{stage}, reproduced")


def _other_machine(contents: Contents, pipeline: Pipeline) -> str:
    """How machine and packages here differ from those of the recorded training; empty if they are equal."""
    from rfdetr_core.checkpoint.files import read_checkpoint

    md5 = pipeline.lock.out(MODEL)
    paths = sorted((contents.root / "records").glob("*.json"))
    records = [checked(files.read_json(path), RecordFile, str(path)) for path in paths]
    recorded = next((record["lineage"]["training"] for record in records if record["file"]["md5"] == md5), None)
    reproduced = (read_checkpoint(contents.root / MODEL).lineage or {}).get("training")
    if recorded is None or reproduced is None:
        return ""
    compared = [(recorded[part], reproduced[part]) for part in ("machine", "packages")]
    evaluation = files.read_json(contents.root / EVALUATION) if (contents.root / EVALUATION).is_file() else {}
    committed = files.parse_json(contents.committed(EVALUATION) or b"{}")
    compared.append((committed.get("machine") or {}, evaluation.get("machine") or {}))
    differences = []
    for recorded_values, two in compared:
        # A key that an older record lacks is not a difference.
        before, after = (
            {key: str(side[key]) for key in recorded_values.keys() & two.keys()} for side in (recorded_values, two)
        )
        differences += [f"{key} {old}, here {new}" for key, old, new in changed_digests(before, after)]
    return "; ".join(dict.fromkeys(differences))


def first_step(before: bytes | None, path: Path) -> str:
    """A text for the end of a message: the first differing step in steps.csv. Empty if equal or missing."""
    if before is None or not path.exists():
        return ""
    difference = first_difference(*(text.decode(errors="replace") for text in (before, files.read_bytes(path))))
    return "" if difference is None else f", {difference}"


def first_epoch(before: bytes | None, after: bytes) -> str:
    """A text for the end of a message: the first differing epoch in history.csv."""
    if before is None:
        return ""
    import pandas as pd

    try:
        tables = [pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False) for text in (before, after)]
    except ValueError:
        return ", but one history.csv is not a table"
    rows = [table.to_dict("records") for table in tables]
    for old, new in zip(*rows, strict=False):
        keys = [key for key in old if old[key] != new.get(key)]
        if keys:
            return f", from epoch {old['epoch']} on ({keys[0]} {old[keys[0]]}, here {new.get(keys[0])})"
    return ", but history.csv is equal" if len(rows[0]) == len(rows[1]) else ", by the number of epochs"


def _compare_scores(report: Report, root: Path, committed: dict[str, bytes]) -> None:
    for name in (SCORES, METRICS):
        if name not in committed or not (root / name).exists():
            continue
        contents = [json.loads(text) for text in (committed[name], files.read_bytes(root / name))]
        of_tracks = [f"{key}.{track}.score" for key in contents[0] for track in TRACKS if key != "epochs"]
        for key in of_tracks if name == SCORES else ("map", "map_50", "f1"):
            old, new = (value_at(content, key) for content in contents)
            numbers = isinstance(old, int | float) and isinstance(new, int | float)
            close = abs(old - new) <= TOLERANCE if numbers else old == new
            report.equal(f"{key} of {name}, within {TOLERANCE}", old, old if close else new, "reproduced")


def _run(folder: Path, *command: str) -> None:
    """Run a command in this environment, without variables of DVC, MLflow and git. Its output goes to stderr."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "GIT_", "PYTHONPATH"))}
    environment |= {
        "PYTHONPYCACHEPREFIX": os.devnull,
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # also if dvc.yaml sets other values
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(command, cwd=folder, env=environment, stdout=2, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed in a clean clone of HEAD, with the message above.")
