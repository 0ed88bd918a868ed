"""How long each stage took when it last ran, and where, by journal/ and records/."""

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
from rfdetr_core.verification.journal import parsed

_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True)
class Duration:
    """The last run of a stage. A stage that DVC restored from its cache did not run.

    seconds: of the run; of a training, for as many epochs as are asked for now. began: ISO 8601. machine: GPU or
    processor, and the name of the host, where they are known. entry: in journal/.
    """

    seconds: float
    began: str
    machine: str
    entry: str


def durations(root: Path, epochs: int | None = None) -> dict[str, Duration]:
    """The last run of each stage that has an entry in journal/. Damaged entries and records are passed over.

    epochs: train.epochs, for which the time of a training is scaled.
    """
    contents = journal.contents(root)
    entries = {name: entry for name in contents if (entry := _entry(name, contents[name])) is not None}
    newest: dict[str, tuple[datetime, str]] = {}
    for name, entry in entries.items():
        if (began := _moment(entry["run"]["began"])) is not None:
            newest[entry["stage"]] = max(newest.get(entry["stage"], (began, name)), (began, name))
    found = {}
    for stage, (_, name) in newest.items():
        run = entries[name]["run"]
        processor = str((run["environment"] or {}).get("processor") or "").partition(",")[0]
        found[stage] = Duration(run["seconds"], run["began"], processor or "an unknown machine", name)
        if stage == "train" and (record := _record_of(entries[name], entries.values(), contents)):
            found[stage] = _of_training(found[stage], entries[name], record, epochs)
    return found


def duration_text(seconds: float) -> str:
    """A duration in words: seconds below a minute and a half, minutes below an hour and a half, then hours."""
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / _MINUTE)
    return f"{minutes} min" if seconds < 1.5 * _HOUR else f"{minutes // 60} h {minutes % 60} min"


def _entry(name: str, content: bytes) -> dict[str, Any] | None:
    return parsed(content, name) if name.startswith(f"{journal.FOLDER}/") else None


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _record_of(
    train: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], contents: Mapping[str, bytes]
) -> dict[str, Any] | None:
    """The record of the model that was stripped from the results of an entry of train."""
    wrote = {path: out["md5"] for path, out in train["outs"].items()}
    strips = [entry for entry in entries if entry["stage"] == "strip" and MODEL in entry["outs"]]
    made = [one for one in strips if all(wrote.get(path, md5) == md5 for path, md5 in one["deps"].items())]
    models = {entry["outs"][MODEL]["md5"] for entry in made}
    for name, content in contents.items():
        if name.startswith(f"{RECORDS}/"):
            try:
                record = checked(files.parse_json(content), RecordFile, name)
            except (ValueError, UserError):
                continue
            if record["file"]["md5"] in models:
                return record
    return None


def _of_training(last: Duration, entry: Mapping[str, Any], record: Mapping[str, Any], epochs: int | None) -> Duration:
    """The duration of a training for this number of epochs, by the time of an epoch in the last one.

    A training that was resumed counts whole: the record has the epochs of its last process.
    """
    run = record.get("run") or {}
    processor = last.machine
    device = run.get("gpu") or (f"{processor}, {run['cpus']} CPUs" if run.get("cpus") else processor)
    machine = f"{device}, host {run['host']}" if run.get("host") else str(device)
    seconds, here = run.get("seconds"), run.get("epochs_here")
    trained, asked = record["lineage"]["selection"]["epochs"], _epochs_of(entry)
    if not (isinstance(seconds, int | float) and type(here) is int and here > 0):
        return Duration(last.seconds, last.began, machine, last.entry)
    planned = epochs or asked or trained
    if asked and trained < asked:  # it stopped early
        planned = min(planned, trained)
    around = max(0.0, last.seconds - seconds)  # before the first epoch and after the last
    return Duration(around + seconds / here * planned, last.began, machine, last.entry)


def _epochs_of(entry: Mapping[str, Any]) -> int | None:
    train = entry["params"].get(PARAMS_FILE.as_posix(), {}).get("train")
    epochs = train.get("epochs") if isinstance(train, dict) else None
    return epochs if type(epochs) is int else None
