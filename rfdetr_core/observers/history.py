"""What loggers are fed from: history.csv has every epoch, so that what could not be sent is never lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files


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


_TRACKS = {"regular": "regular", "ema": "EMA"}


def best_scores(folder: Path) -> str:
    """Both tracks' best scores, from scores.json."""
    return _scores(files.read_json(folder / "scores.json"))


def run_files(folder: Path) -> str:
    """The checkpoints of a run folder that are there, a line each, with what they are for; then both scores."""
    selection = files.read_json(folder / "selection.json")
    told = {"checkpoint_best_total.pth": f"the result, to deploy: the {_TRACKS[selection['winner']]} weights alone"}
    told |= {f"checkpoint_best_{track}.pth": f"the best {name} weights" for track, name in _TRACKS.items()}
    told["checkpoint.pth"] = "the state after the last epoch, to go on from"
    kept = sorted(folder.glob("checkpoint_[0-9]*.pth"), key=lambda path: int(path.stem.rpartition("_")[2]))
    told |= {path.name: f"the state after epoch {path.stem.rpartition('_')[2]}" for path in kept}
    there = [f"{folder / name}  {what}" for name, what in told.items() if (folder / name).exists()]
    return "\n".join([*there, _scores(selection)])


def _scores(content: dict[str, Any]) -> str:
    tracks = {name: content[track] for track, name in _TRACKS.items() if track in content}
    told = [f"{name} {_number(best['score'])} (epoch {best['epoch']})" for name, best in tracks.items()]
    return f"best {content['key']}: {', '.join(told)}; epochs count from 0, as in history.csv"


def _number(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
