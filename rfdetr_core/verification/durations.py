"""The duration and machine of each stage's last run, read from journal/ and records/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rfdetr_core.audit.history import MODEL
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import PARAMS_FILE
from rfdetr_core.base.schema import checked
from rfdetr_core.checkpoint.schema import RecordFile
from rfdetr_core.lineage import journal
from rfdetr_core.lineage.records import FOLDER as RECORDS
from rfdetr_core.verification.journal import parse_entry

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Duration:
    """The last run of a stage. A stage that DVC restored from its cache did not run.

    Attributes:
        seconds: The duration. For a training it is scaled to the number of epochs in params.yaml.
        began: The start, ISO 8601.
        machine: The GPU or processor, and the host name, if they are known.
        entry: The file in journal/.
    """

    seconds: float
    began: str
    machine: str
    entry: str


def durations(root: Path, epochs: int | None = None) -> dict[str, Duration]:
    """The last run of each stage that has an entry in journal/. Damaged entries and records are ignored.

    Args:
        root: The project.
        epochs: train.epochs of params.yaml, to which the duration of a training is scaled.
    """
    contents = journal.contents(root)
    entries = {name: entry for name in contents if (entry := _entry(name, contents[name])) is not None}
    newest: dict[str, tuple[datetime, str]] = {}
    for name, entry in entries.items():
        if (began := _parse_time(entry["run"]["began"])) is not None:
            newest[entry["stage"]] = max(newest.get(entry["stage"], (began, name)), (began, name))
    last_runs = {}
    for stage, (_, name) in newest.items():
        run = entries[name]["run"]
        processor = str((run["environment"] or {}).get("processor") or "").partition(",")[0]
        last_runs[stage] = Duration(run["seconds"], run["began"], processor or "an unknown machine", name)
        if stage == "train" and (record := _record_of(entries[name], entries.values(), contents)):
            last_runs[stage] = _scaled_training(last_runs[stage], entries[name], record, epochs)
    return last_runs


def duration_text(seconds: float) -> str:
    """Format a duration: in seconds below 90 s, in minutes below 90 min, else in hours and minutes."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min" if seconds < 1.5 * _HOUR else f"{minutes // 60} h {minutes % 60} min"


def _entry(name: str, content: bytes) -> dict[str, Any] | None:
    return parse_entry(content, name) if name.startswith(f"{journal.FOLDER}/") else None


def _parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _record_of(
    train: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], contents: Mapping[str, bytes]
) -> dict[str, Any] | None:
    """The run record of the model that was stripped from the results of this train entry."""
    wrote = {path: out["md5"] for path, out in train["outs"].items()}
    strips = [entry for entry in entries if entry["stage"] == "strip" and MODEL in entry["outs"]]
    matching = [strip for strip in strips if all(wrote.get(path, md5) == md5 for path, md5 in strip["deps"].items())]
    models = {entry["outs"][MODEL]["md5"] for entry in matching}
    for name, content in contents.items():
        if name.startswith(f"{RECORDS}/"):
            try:
                record = checked(files.parse_json(content), RecordFile, name)
            except (ValueError, UserError):
                continue
            if record["file"]["md5"] in models:
                return record
    return None


def _scaled_training(
    last: Duration, entry: Mapping[str, Any], record: Mapping[str, Any], epochs: int | None
) -> Duration:
    """Scale the duration of the last training to a number of epochs.

    The time per epoch comes from the last process, which may have resumed the training and run only some epochs.
    """
    run = record.get("run") or {}
    processor = last.machine
    device = run.get("gpu") or (f"{processor}, {run['cpus']} CPUs" if run.get("cpus") else processor)
    machine = f"{device}, host {run['host']}" if run.get("host") else str(device)
    seconds, epochs_run = run.get("seconds"), run.get("epochs_here")
    trained, requested = record["lineage"]["selection"]["epochs"], _epochs_of(entry)
    if not (isinstance(seconds, int | float) and type(epochs_run) is int and epochs_run > 0):
        return Duration(last.seconds, last.began, machine, last.entry)
    planned = epochs or requested or trained
    if requested and trained < requested:  # it stopped early
        planned = min(planned, trained)
    around = max(0.0, last.seconds - seconds)  # before the first epoch and after the last
    return Duration(around + seconds / epochs_run * planned, last.began, machine, last.entry)


def _epochs_of(entry: Mapping[str, Any]) -> int | None:
    train = entry["params"].get(PARAMS_FILE.as_posix(), {}).get("train")
    epochs = train.get("epochs") if isinstance(train, dict) else None
    return epochs if type(epochs) is int else None
