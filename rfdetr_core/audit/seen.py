"""Which images a model was trained on, and which chose its epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.audit.history import History
from rfdetr_core.audit.images import images_of
from rfdetr_core.audit.trace import Archive, trace
from rfdetr_core.base.errors import UserError

TRAINED, CHOSEN = "trained", "chosen"


@dataclass(frozen=True)
class Seen:
    """The use that a model, or a model it started from, made of images.

    by_sha256: TRAINED for an image of train, else CHOSEN for one of valid, whose scores picked the epoch; other images
    are absent. unknown: a sentence for each part of the model's images that is not known.
    """

    by_sha256: dict[str, str]
    unknown: list[str]


def seen_by(checkpoint: Path, repo: Path = Path()) -> Seen:
    """The images that a model has seen, by its lineage and the history of a clone.

    The labels may have changed since: an image is known by its bytes, not by its labels.
    """
    try:
        archive = Archive(History(repo, working_tree=True))
        traced = trace(checkpoint, archive)
        if traced.contradicted:
            raise UserError(traced.notes[0])
        images = images_of(traced, archive)
    except UserError as error:
        return Seen({}, [str(error)])
    uses: dict[str, str] = {}
    for split, use in (("valid", CHOSEN), ("train", TRAINED)):
        uses |= {row["sha256"]: use for row in images.rows if row["split"] == split}
    return Seen(uses, [*images.unknown, *images.notes])
