"""What loggers are fed from: history.csv has every epoch, so that what could not be sent is never lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files

_TRACKS = {"regular": "regular", "ema": "EMA"}


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """The values of each epoch; without those that are not finite. No file: no epoch."""
    if not path.exists():
        return {}
    import pandas as pd

    table = pd.read_csv(path, index_col="epoch", dtype=float, float_precision="round_trip")
    return {int(epoch): row.dropna().to_dict() for epoch, row in table.iterrows()}


def fingerprint(record: Mapping[str, Any]) -> str:
    """One name for everything that decides a result: loggers find the run of a resumed training by it."""
    return files.digest(record)


def main_repository() -> Path:
    """The folder of the project, also from within the copy in which `dvc exp run --temp` works."""
    here = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    copies = [parent for parent in (here, *here.parents) if parent.parts[-3:] == (".dvc", "tmp", "exps")]
    return copies[0].parents[2] if copies else here


def run_files(folder: Path) -> str:
    """The models in a run folder and what they are for, a line for each checkpoint and one for export/; both scores."""
    from rfdetr_core.checkpoint.files import read_training_record

    selection = files.read_json(folder / "selection.json")
    told = {"checkpoint_best_total.pth": f"the result, to deploy: the {_TRACKS[selection['winner']]} weights alone"}
    told |= {f"checkpoint_best_{track}.pth": f"the best {name} weights" for track, name in _TRACKS.items()}
    kept = {int(path.stem.rpartition("_")[2]): path.name for path in folder.glob("checkpoint_[0-9]*.pth")}
    states = {"checkpoint.pth": "the state after the last epoch, to go on from"}
    states |= {kept[number]: f"the state after epoch {number + 1}" for number in sorted(kept)}
    # Where DVC restored the result, the states, which it does not know, are of the training before.
    result = read_training_record(folder / "checkpoint_best_total.pth")
    for name, what in states.items():
        own = read_training_record(folder / name)
        other = own is not None and result is not None and fingerprint(own) != fingerprint(result)
        told[name] = "the state of another training, not of this result" if other else what
    there = [f"{folder / name}  {what}" for name, what in told.items() if (folder / name).exists()]
    if exported := sorted(path.name for path in folder.glob("export/*")):
        there.append(f"{folder / 'export'}/: {', '.join(exported)}  the result for other runtimes")
    return "\n".join([*there, best_scores(files.read_json(folder / "scores.json"))])


def best_scores(scores: dict[str, Any]) -> str:
    """Both tracks' best scores, from the content of scores.json."""
    (key,) = scores.keys() - {"epochs"}
    told = []
    for track, name in _TRACKS.items():
        if (best := scores[key].get(track)) is not None:
            score = "none" if best["score"] is None else f"{best['score']:.3f}"
            told.append(f"{name} {score} (epoch {best['epoch']})")
    return f"best {key}: {', '.join(told)}"
