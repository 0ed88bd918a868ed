"""What is known of a model file: the record that it carries, the history of the project, and its evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import Checkpoint, read_checkpoint
from rfdetr_core.verification.statement import Origin


@dataclass(frozen=True)
class Facts:
    """What the documents are written from.

    Attributes:
        file: The model file.
        root: The project.
        checkpoint: What the file holds.
        lineage: The record that the file carries.
        origin: What the history of the project knows of the file; None outside of a git repository.
    """

    file: Path
    root: Path
    checkpoint: Checkpoint
    lineage: dict[str, Any]
    origin: Origin | None


def collect(file: Path, root: Path = Path()) -> Facts:
    """Read a model file, and ask the history of the project at `root` about it.

    Raises:
        UserError: The file is not a model file, or carries no record.
    """
    checkpoint = read_checkpoint(file)
    if checkpoint.lineage is None:
        raise UserError(
            f"{file} carries no record of its making. Name the stripped model: output/checkpoint_best_total.pth"
        )
    return Facts(file, root, checkpoint, checkpoint.lineage, Origin.of(file, root))
