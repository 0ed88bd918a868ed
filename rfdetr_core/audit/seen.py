"""Which images a model has seen: in its training, in that of a model it started from, or to choose its epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfdetr_core.audit.history import History
from rfdetr_core.audit.images import images_of
from rfdetr_core.audit.trace import Archive, trace
from rfdetr_core.base import git
from rfdetr_core.base.errors import UserError

TRAINED, CHOSEN = "trained", "chosen"


@dataclass(frozen=True)
class Seen:
    """The use that a model, or a model it started from, made of images.

    by_sha256: TRAINED for an image of train, else CHOSEN for one of valid, whose scores picked the epoch; other images
    are absent. unknown: a sentence for each reason why there may be more.
    """

    by_sha256: dict[str, str]
    unknown: list[str]

    def among(self, images: Mapping[str, str], use: str) -> list[str]:
        """The paths, sorted, of the images of this use. images: SHA-256 by path."""
        return sorted(path for path, sha256 in images.items() if self.by_sha256.get(sha256) == use)


def seen_by(models: Sequence[Path], root: Path = Path()) -> list[Seen]:
    """The images that each model file has seen, by its lineage and the manifests in the repository of `root`.

    The labels may have changed since: an image is known by its bytes, not by its labels.

    Raises:
        UserError: git refuses to read the repository.
    """
    if git.answer(root, "rev-parse", "--git-dir") is None:
        return [Seen({}, ["there is no git repository, which would have the manifests of its training"])] * len(models)
    archive = Archive(History(root, working_tree=True))
    return [_seen(model, archive) for model in models]


def _seen(model: Path, archive: Archive) -> Seen:
    try:
        traced = trace(model, archive)
        if traced.contradicted:
            return Seen({}, traced.notes[:1])
        images = images_of(traced, archive)
    except UserError as error:  # it has no lineage, or none that the history vouches for
        return Seen({}, [str(error)])
    uses: dict[str, str] = {}
    for split, use in (("valid", CHOSEN), ("train", TRAINED)):
        uses |= {row["sha256"]: use for row in images.rows if row["split"] == split}
    return Seen(uses, [*images.unknown, *images.notes])
