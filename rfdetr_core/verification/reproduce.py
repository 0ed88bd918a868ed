"""The whole pipeline once more in a clean clone of HEAD, and every byte compared."""

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
from rfdetr_core.verification.remade import HISTORY, METRICS
from rfdetr_core.verification.report import Report
from rfdetr_core.verification.steps import STEPS

_REMOTE = "cache-of-the-original"
# On another kind of machine: how far a score in 0..1 may be from the recorded one.
TOLERANCE = 0.02


def reproduce(root: Path) -> Report:
    """Clone HEAD into a temporary folder, fetch what DVC tracks, run every stage, compare each out with dvc.lock.

    The project itself and its cache are only read.

    Raises:
        UserError: no project, no dvc.lock, the dataset cannot be fetched, or a stage fails.
    """
    report, original = Report(), Contents(root)
    changed = [name for name in original.differs_from_head(".") if name in original.tracked]
    if changed:
        report.note(f"HEAD was reproduced, without what is not committed: {', '.join(changed[:5])}")
    with tempfile.TemporaryDirectory(prefix="reproduce-") as temporary:
        top, clone = git.toplevel(original.root), Path(temporary) / "clone"
        git.text(original.root, "clone", "-q", str(top), str(clone))
        folder = clone / original.root.relative_to(top)
        refuse_bytecode(folder)
        contents, pipeline = Contents(folder), Pipeline.read(folder)
        there = [name for name in (HISTORY, STEPS, SCORES, METRICS) if (folder / name).exists()]
        before = {name: files.read_bytes(folder / name) for name in there}
        _fetch(original, contents, folder)
        _run(folder, "dvc", "repro", "--force", "--no-run-cache")
        compare_outs(report, Contents(folder), pipeline, before, _other_machine(Contents(folder), pipeline))
    return report


def _fetch(original: Contents, contents: Contents, folder: Path) -> None:
    """What .dvc files track, from the cache of the original, else from the default remote."""
    wanted = [name for name in sorted(contents.tracked) if name.endswith(".dvc") and (folder / name).is_file()]
    if not wanted:
        return
    _run(folder, "dvc", "remote", "add", "-q", "--local", _REMOTE, str(cache_folder(original.root).resolve()))
    try:
        _run(folder, "dvc", "pull", "-q", "-r", _REMOTE, *wanted)
    except UserError:
        _run(folder, "dvc", "pull", "-q", *wanted)


def compare_outs(report: Report, contents: Contents, pipeline: Pipeline, before: dict[str, bytes], other: str) -> None:
    """Outs with dvc.lock, stage by stage in the order in which they ran; scores, where the machine is another.

    before: history.csv, steps.csv, scores.json and metrics.json as committed. other: how the machine differs; empty: it
    does not.
    """
    differing: dict[str, list[tuple[str, str, str | None]]] = {}
    for stage in dict.fromkeys([*pipeline.stages, *pipeline.lock.stages]):
        for path, md5 in pipeline.lock.stages[stage].outs.items() if stage in pipeline.lock.stages else ():
            report.checked += 1
            found = contents.md5(path)
            if found != md5:
                differing.setdefault(stage, []).append((path, md5, found))
    if not differing:
        return
    first = next(iter(differing))
    where = f"first stage that differs: {first}"
    if first == "train":
        where += first_step(before.get(STEPS), contents.root / STEPS) or first_epoch(
            before.get(HISTORY), files.read_bytes(contents.root / HISTORY)
        )
    if other and not {"validate", "convert"} & differing.keys():
        report.note(f"made on another kind of machine ({other}), so bytes differ ({where}) and scores are compared")
        report.skip(
            f"bytes of the outs of {', '.join(differing)}",
            f"another kind of machine: equal scores, give or take {TOLERANCE}, do not show that these are the weights "
            "that this training makes. Run it on a machine of the recorded kind",
        )
        _compare_scores(report, contents.root, before)
        return
    report.note(where)
    for stage, outs in differing.items():
        for path, expected, found in outs:
            report.wrong(path, expected, found, f"{stage}, reproduced")


def _other_machine(contents: Contents, pipeline: Pipeline) -> str:
    """How the machine and packages of the recorded training differ from those here; empty: not at all."""
    from rfdetr_core.checkpoint.files import read_checkpoint

    md5 = pipeline.lock.out(MODEL)
    paths = sorted((contents.root / "records").glob("*.json"))
    records = [checked(files.read_json(path), RecordFile, str(path)) for path in paths]
    told = next((one["lineage"]["training"] for one in records if one["file"]["md5"] == md5), None)
    here = (read_checkpoint(contents.root / MODEL).lineage or {}).get("training")
    if told is None or here is None:
        return ""
    compared = [(told[part], here[part]) for part in ("machine", "packages")]
    made = files.read_json(contents.root / EVALUATION) if (contents.root / EVALUATION).is_file() else {}
    committed = files.parse_json(contents.committed(EVALUATION) or b"{}")
    compared.append((committed.get("machine") or {}, made.get("machine") or {}))
    found = []
    for one, two in compared:
        # What an older record does not say is no difference.
        before, after = ({key: str(side[key]) for key in one.keys() & two.keys()} for side in (one, two))
        found += [f"{key} {old}, here {new}" for key, old, new in changed_digests(before, after)]
    return "; ".join(dict.fromkeys(found))


def first_step(before: bytes | None, path: Path) -> str:
    """Where steps.csv as committed and as made again part, as the end of a sentence; empty: they are equal, or gone."""
    if before is None or not path.exists():
        return ""
    found = first_difference(*(text.decode(errors="replace") for text in (before, files.read_bytes(path))))
    return "" if found is None else f", {found}"


def first_epoch(before: bytes | None, after: bytes) -> str:
    """Where two contents of history.csv part, as the end of a sentence."""
    if before is None:
        return ""
    import pandas as pd

    try:
        tables = [pd.read_csv(io.BytesIO(text), dtype=str, keep_default_na=False) for text in (before, after)]
    except ValueError:
        return ", where a history.csv is not a table"
    rows = [table.to_dict("records") for table in tables]
    for old, new in zip(*rows, strict=False):
        keys = [key for key in old if old[key] != new.get(key)]
        if keys:
            return f", from epoch {old['epoch']} on ({keys[0]} {old[keys[0]]}, here {new.get(keys[0])})"
    return ", in no epoch of history.csv" if len(rows[0]) == len(rows[1]) else ", in the number of epochs"


def _compare_scores(report: Report, root: Path, before: dict[str, bytes]) -> None:
    for name in (SCORES, METRICS):
        if name not in before or not (root / name).exists():
            continue
        contents = [json.loads(text) for text in (before[name], files.read_bytes(root / name))]
        of_tracks = [f"{key}.{track}.score" for key in contents[0] for track in TRACKS if key != "epochs"]
        for key in of_tracks if name == SCORES else ("map", "map_50", "f1"):
            old, new = (value_at(content, key) for content in contents)
            numbers = isinstance(old, int | float) and isinstance(new, int | float)
            close = abs(old - new) <= TOLERANCE if numbers else old == new
            report.equal(f"{key} of {name}, give or take {TOLERANCE}", old, old if close else new, "reproduced")


def _run(folder: Path, *command: str) -> None:
    """Run a command as a user would whose environment is this one; its output goes where errors go."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "GIT_", "PYTHONPATH"))}
    environment |= {"PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}  # whatever dvc.yaml asks for
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    done = subprocess.run(command, cwd=folder, env=environment, stdout=2, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed in a clean clone of HEAD, with the message above.")
