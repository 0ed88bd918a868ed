"""Whether the next training resumes an interrupted one. torch is needed only where output/checkpoint.pth is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.base import files, provenance
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.params import PARAMS_FILE, read_section
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import TrainConfig

STATE = Path("output/checkpoint.pth")
_COMPARED = ("params", "inputs", "code", "packages")  # the weights that it starts from, and the machine, are not


@dataclass(frozen=True)
class Interrupted:
    """A training that did not end: its epochs, and what differs in what is asked for now; empty: it is resumed."""

    epochs: int
    differs: str


def interrupted(root: Path) -> Interrupted | None:
    """The interrupted training in output/ of the project at `root`; None where there is none, or it cannot be read.

    Compared are params, code, packages, and the files that validate and convert wrote, as they are now.
    """
    if not (root / STATE).is_file():
        return None
    try:
        from rfdetr_core.checkpoint.files import read_plain
        from rfdetr_core.checkpoint.schema import ResumeState

        state = read_plain(root / STATE, ResumeState, tensors=False)
        if state["run"]["finished"]:
            return None
        from rfdetr_core.training.record import differences

        now = _fingerprint(root)
        known = {key: one for key, one in state["run"]["fingerprint"].items() if key.startswith(_COMPARED)}
        # A file that was not pulled is not compared.
        before = {key: one for key, one in known.items() if key in now or not key.startswith("inputs.")}
    except (ImportError, UserError):  # in CI the plan is made without torch; train itself says what is wrong
        return None
    return Interrupted(state["epoch"] + 1, listed(differences(before, now)))


def _fingerprint(root: Path) -> dict[str, Any]:
    """The part of the fingerprint of a training that is known without torch (see `training.record.fingerprint`)."""
    params = root / PARAMS_FILE
    model, train = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    code, where = Code(root), ProjectPaths(root, root / "annotations", root / "manifest")
    paths = [path for path in where.inputs("train", "valid") if path.is_file()]
    return provenance.flattened(
        {
            "params": {"model": model.model_dump(mode="json"), "train": train.model_dump(mode="json")},
            "inputs": {f"{path.parent.name}/{path.name}": files.sha256_file(path) for path in paths},
            "code": code.digests("stages.train", "rfdetr_core.training.run", *code.starts("train")),
            "packages": provenance.environment()["packages"],
        }
    )
