"""Reads history.csv, which has every epoch of a run. Loggers send its rows, so a failed upload loses nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files

_TRACKS = {"regular": "regular", "ema": "EMA"}


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """The finite values of each epoch; empty if the file does not exist."""
    if not path.exists():
        return {}
    import pandas as pd

    table = pd.read_csv(path, index_col="epoch", dtype=float, float_precision="round_trip")
    return {int(epoch): row.dropna().to_dict() for epoch, row in table.iterrows()}


def fingerprint(record: Mapping[str, Any]) -> str:
    """The record digest: the digest of a whole training record. Loggers use it to find the run of a resumed training.

    Do not confuse it with `training.record.fingerprint`, which returns the inputs that must be equal to resume.
    """
    return files.digest(record)


def main_repository() -> Path:
    """The folder of the project, also if the current folder is the temporary copy of `dvc exp run --temp`."""
    folder = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    copies = [parent for parent in (folder, *folder.parents) if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else folder


def run_files(folder: Path) -> str:
    """Describe a run folder: a line for each checkpoint with its purpose, a line for export/, and the best scores."""
    from rfdetr_core.checkpoint.files import read_training_record

    selection = files.read_json(folder / "selection.json")
    purposes = {
        "checkpoint_best_total.pth": f"the result, for deployment: only the {_TRACKS[selection['winner']]} weights"
    }
    purposes |= {f"checkpoint_best_{track}.pth": f"the best {name} weights" for track, name in _TRACKS.items()}
    numbered = {int(path.stem.rpartition("_")[2]): path.name for path in folder.glob("checkpoint_[0-9]*.pth")}
    states = {"checkpoint.pth": "the state after the last epoch, to resume from"}
    states |= {numbered[number]: f"the state after epoch {number + 1}" for number in sorted(numbered)}
    # DVC does not track the states. If DVC restored the result, the states belong to an earlier training.
    result = read_training_record(folder / "checkpoint_best_total.pth")
    for name, purpose in states.items():
        record = read_training_record(folder / name)
        is_other_training = record is not None and result is not None and fingerprint(record) != fingerprint(result)
        purposes[name] = "the state of another training, not of this result" if is_other_training else purpose
    lines = [f"{folder / name}  {purpose}" for name, purpose in purposes.items() if (folder / name).exists()]
    if exported := sorted(path.name for path in folder.glob("export/*")):
        lines.append(f"{folder / 'export'}/: {', '.join(exported)}  the result for other runtimes")
    return "\n".join([*lines, best_scores(files.read_json(folder / "scores.json"))])


def best_scores(scores: dict[str, Any]) -> str:
    """The best score of each track, from the content of scores.json."""
    (key,) = scores.keys() - {"epochs"}
    parts = []
    for track, name in _TRACKS.items():
        if (best := scores[key].get(track)) is not None:
            score = "none" if best["score"] is None else f"{best['score']:.3f}"
            parts.append(f"{name} {score} (epoch {best['epoch']})")
    return f"best {key}: {', '.join(parts)}"
