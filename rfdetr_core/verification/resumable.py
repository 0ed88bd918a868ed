"""Predict whether the next training resumes an interrupted one. Needs torch only if output/checkpoint.pth exists."""

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
_COMPARED = ("params", "inputs", "code", "packages")  # not compared: the starting weights and the machine


@dataclass(frozen=True)
class Interrupted:
    """A training that did not finish.

    Attributes:
        epochs: The number of finished epochs.
        differs: What differs between its inputs and the present ones. Empty: the next training resumes it.
    """

    epochs: int
    differs: str


def interrupted(root: Path) -> Interrupted | None:
    """The interrupted training in output/ of the project at `root`; None if there is none or it cannot be read.

    Params, code, packages, manifests and annotations are compared with their present values.
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

        present = _fingerprint(root)
        recorded = {key: value for key, value in state["run"]["fingerprint"].items() if key.startswith(_COMPARED)}
        # A file that was not pulled is not compared.
        before = {key: value for key, value in recorded.items() if key in present or not key.startswith("inputs.")}
    except (ImportError, UserError):  # CI plans without torch; train itself reports the error
        return None
    return Interrupted(state["epoch"] + 1, listed(differences(before, present)))


def _fingerprint(root: Path) -> dict[str, Any]:
    """The part of a training's fingerprint that needs no torch (see `training.record.fingerprint`)."""
    params = root / PARAMS_FILE
    model, train = read_section(ModelConfig, "model", params), read_section(TrainConfig, "train", params)
    code, project = Code(root), ProjectPaths(root, root / "annotations", root / "manifest")
    paths = [path for path in project.inputs("train", "valid") if path.is_file()]
    return provenance.flattened(
        {
            "params": {"model": model.model_dump(mode="json"), "train": train.model_dump(mode="json")},
            "inputs": {f"{path.parent.name}/{path.name}": files.sha256_file(path) for path in paths},
            "code": code.digests("stages.train", "rfdetr_core.training.run", *code.starts("train")),
            "packages": provenance.environment()["packages"],
        }
    )
