"""What is said at the end: the scores of both tracks, and the files of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core import files

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
