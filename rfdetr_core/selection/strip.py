"""The winner of the two best checkpoints, reduced to its weights and what loading them needs."""

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
    """Write `output` (checkpoint_best_total.pth) from the best file in `folder` that `selection.json` names.

    Left out: the epoch, optimiser state, and whatever is no part of a checkpoint; the record of the training becomes
    part of the lineage. Equal input gives equal bytes. What is true of the run alone goes to a file in `records`, and
    to record.json beside `output`.

    Raises:
        UserError: the selection is not of this version, or the file it names is missing or of another epoch.
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
            f"{path} is of epoch {epoch}, selection.json of epoch {selection[winner]['epoch']}. "
            "The two belong to different trainings. Restore them: dvc checkout, or dvc repro"
        )
    lineage = compose(checkpoint, selection)
    stripped = replace(checkpoint, epoch=None, best_total_source=winner, training_record=None, lineage=lineage)
    write_checkpoint(output, stripped)
    run = read_run(folder, checkpoint.training_record or {})
    write_record(records, output, lineage, run | {"code_of_strip": exact_digests(lineage["code"])})
