"""The models that a training started from, over any number of generations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rfdetr_core.audit.trace import Archive
from rfdetr_core.base import files
from rfdetr_core.checkpoint.published import PUBLISHED


@dataclass(frozen=True)
class Ancestor:
    """A model that a training started from.

    name: of its file in weights/. through: tensor digests from the direct parent to this model. training: its training
    record; None: not known.
    """

    name: str
    through: tuple[str, ...]
    training: dict[str, Any] | None

    @property
    def published(self) -> bool:
        """Whether it is upstream's: a training takes such a name only with the published MD5."""
        return self.training is None and self.name in PUBLISHED


def ancestors_of(training: Mapping[str, Any], archive: Archive) -> Iterator[Ancestor]:
    """Every ancestor of a training, the nearest first; each training once."""
    waiting: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [(training, ())]
    seen = {files.digest(training)} if training.get("parents") else set()
    while waiting:
        child, through = waiting.pop(0)
        for parent in (child.get("parents") or {}).values():
            path = (*through, str(parent["tensors"]))
            trainings = trainings_of(parent, archive)
            if not trainings:
                yield Ancestor(str(parent["name"]), path, None)
            for one in trainings:
                if (digest := files.digest(one)) not in seen:
                    seen.add(digest)
                    yield Ancestor(str(parent["name"]), path, one)
                    waiting.append((one, path))


def trainings_of(parent: Mapping[str, Any], archive: Archive) -> list[dict[str, Any]]:
    """The training that made a parent: by the record of its file, or of another file of its run; else as the parent
    itself said; else of each run that made such weights."""
    runs = [one for one in archive.runs if one["lineage"]["tensors"] == parent["tensors"]]
    exact = [one["lineage"]["training"] for one in runs if one["file"]["sha256"] == parent["sha256"]]
    if exact:
        return exact[:1]
    if known := archive.trainings.get(parent.get("record") or ""):
        return [known]
    lineage, training = parent.get("lineage"), parent.get("training")
    said = [lineage["training"]] if lineage and lineage["tensors"] == parent["tensors"] else []
    said += [training] if training else []
    return said[:1] or [one["lineage"]["training"] for one in runs]
