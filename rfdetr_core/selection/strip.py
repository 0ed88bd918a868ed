"""Stripping the winner's checkpoint to its weights, the metadata that loading needs, and the lineage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_core.base.code import exact_digests
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.schema import checked
from rfdetr_core.checkpoint.files import read_checkpoint, write_checkpoint
from rfdetr_core.checkpoint.schema import Selection
from rfdetr_core.lineage.compose import compose
from rfdetr_core.lineage.records import read_run, write_record


def strip(folder: Path, selection: dict[str, Any], output: Path, records: Path) -> None:
    """Write the file to deploy, checkpoint_best_total.pth, and the run record.

    The file is made from the winner's checkpoint. Epoch, optimiser state and unknown content are left out; the training
    record becomes part of the lineage. Equal input gives equal bytes, so facts about the run itself go into the run
    record.

    Args:
        folder: the run folder with the checkpoints.
        selection: the content of selection.json.
        output: the file to write. The run record is also written beside it, as record.json.
        records: the folder of the run records in git.

    Raises:
        UserError: another version wrote the selection, or the checkpoint that it names is missing or of another epoch.
    """
    try:
        checked(selection, Selection, "selection.json")
    except UserError as error:
        raise UserError(f"{error}. Run: dvc repro select_best") from None
    winner = selection["winner"]
    path = folder / f"checkpoint_best_{winner}.pth"
    checkpoint = read_checkpoint(path)
    epoch = None if checkpoint.epoch is None else checkpoint.epoch + 1  # selection.json counts from 1
    if epoch != selection[winner]["epoch"]:
        raise UserError(
            f"{path} is of epoch {epoch}, but selection.json names epoch {selection[winner]['epoch']}. "
            "They belong to different trainings. Restore them: dvc checkout, or dvc repro"
        )
    lineage = compose(checkpoint, selection)
    stripped = replace(checkpoint, epoch=None, best_total_source=winner, training_record=None, lineage=lineage)
    write_checkpoint(output, stripped)
    run = read_run(folder, checkpoint.training_record or {})
    write_record(records, output, lineage, run | {"code_of_strip": exact_digests(lineage["code"])})
