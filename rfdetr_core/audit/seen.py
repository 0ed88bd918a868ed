"""Which images of a split a model has seen: in its training, in that of a model it started from, or to choose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.audit.history import History
from rfdetr_core.audit.images import images_of
from rfdetr_core.audit.trace import Archive, trace
from rfdetr_core.base import git
from rfdetr_core.base.errors import UserError


@dataclass(frozen=True)
class Seen:
    """Paths of images, sorted. trained: in the training of the model, or of one that it started from. chosen: in the
    validation that chose its epoch. unknown: a sentence for each reason why there may be more."""

    trained: list[str]
    chosen: list[str]
    unknown: list[str]


def seen_by(models: Sequence[Path], images: Mapping[str, str], root: Path = Path()) -> list[Seen]:
    """What each model file has seen of some images, by the manifests that the repository of `root` has.

    An image is the same if its bytes are. images: SHA-256 by path.
    """
    if git.answer(root, "rev-parse", "--git-dir") is None:
        reason = "there is no git repository, which would have the manifests of its training"
        return [Seen([], [], [reason]) for _ in models]
    archive = Archive(History(root, working_tree=True))
    return [_seen(model, images, archive) for model in models]


def _seen(model: Path, images: Mapping[str, str], archive: Archive) -> Seen:
    try:
        traced = trace(model, archive)
        found = images_of(traced, archive)
    except UserError as error:  # it has no lineage, or none that the history vouches for
        return Seen([], [], [str(error)])
    digests = {split: {row["sha256"] for row in found.rows if row["split"] == split} for split in ("train", "valid")}
    trained, chosen = (sorted(path for path, one in images.items() if one in some) for some in digests.values())
    doubts = traced.notes if traced.contradicted else []
    return Seen(trained, chosen, [*doubts, *found.unknown, *found.notes])
