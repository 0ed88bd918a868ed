"""Which images a model has seen: in its own training, in an ancestor's training, or when its epoch was chosen."""

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
    """The images that a model or one of its ancestors has seen.

    Attributes:
        by_sha256: How each image was used. TRAINED: the image is in train. CHOSEN: the image is only in valid; the
            scores on valid were used to choose the epoch. Other images are absent.
        unknown: A sentence for each reason why there may be more images.
    """

    by_sha256: dict[str, str]
    unknown: list[str]

    def among(self, images: Mapping[str, str], use: str) -> list[str]:
        """The sorted paths of the images with this use.

        Args:
            images: SHA-256 by path.
            use: TRAINED or CHOSEN.
        """
        return sorted(path for path, sha256 in images.items() if self.by_sha256.get(sha256) == use)


def seen_by(models: Sequence[Path], root: Path = Path()) -> list[Seen]:
    """The images that each model file has seen, from its lineage and the manifests in the git repository of `root`.

    An image is identified by its bytes, not by its labels, so the labels may have changed since.

    Raises:
        UserError: Git refuses to read the repository.
    """
    if git.answer(root, "rev-parse", "--git-dir") is None:
        reason = "this folder is not in a git repository, so the manifests of its training cannot be read"
        return [Seen({}, [reason])] * len(models)
    archive = Archive(History(root, working_tree=True))
    return [_seen(model, archive) for model in models]


def _seen(model: Path, archive: Archive) -> Seen:
    try:
        traced = trace(model, archive)
        if traced.contradicted:
            return Seen({}, traced.notes[:1])
        images = images_of(traced, archive)
    except UserError as error:  # it has no lineage, or several runs may have produced it
        return Seen({}, [str(error)])
    uses: dict[str, str] = {}
    for split, use in (("valid", CHOSEN), ("train", TRAINED)):
        uses |= {row["sha256"]: use for row in images.rows if row["split"] == split}
    return Seen(uses, [*images.unknown, *images.notes])
