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

    Attributes:
        name: The name of its file in weights/.
        through: The weights digests of the models on the path to this ancestor: the direct parent first,
            this ancestor last.
        training: Its training record; None if it is not known.
    """

    name: str
    through: tuple[str, ...]
    training: dict[str, Any] | None

    @property
    def published(self) -> bool:
        """Whether upstream published it.

        The name is enough: a training accepts the name of a published file only if the file has the published MD5.
        """
        return self.training is None and self.name in PUBLISHED


def ancestors_of(training: Mapping[str, Any], archive: Archive) -> Iterator[Ancestor]:
    """Every ancestor of a training, the nearest first. Each training comes once."""
    waiting: list[tuple[Mapping[str, Any], tuple[str, ...]]] = [(training, ())]
    visited = {files.digest(training)} if training.get("parents") else set()
    while waiting:
        child, through = waiting.pop(0)
        for parent in (child.get("parents") or {}).values():
            path = (*through, str(parent["tensors"]))
            records = trainings_of(parent, archive)
            if not records:
                yield Ancestor(str(parent["name"]), path, None)
            for record in records:
                if (digest := files.digest(record)) not in visited:
                    visited.add(digest)
                    yield Ancestor(str(parent["name"]), path, record)
                    waiting.append((record, path))


def trainings_of(parent: Mapping[str, Any], archive: Archive) -> list[dict[str, Any]]:
    """The training records that may have produced a parent.

    The first of these sources that has a training record is used:

    1. The run record of the parent's file.
    2. The run record of another file of the same training.
    3. The parent's file itself: its lineage, else its training record.
    4. The run records of all runs with these weights. Only this source may give several training records.
    """
    runs = [run for run in archive.runs if run["lineage"]["tensors"] == parent["tensors"]]
    exact = [run["lineage"]["training"] for run in runs if run["file"]["sha256"] == parent["sha256"]]
    if exact:
        return exact[:1]
    if recorded := archive.trainings.get(parent.get("record") or ""):
        return [recorded]
    lineage, training = parent.get("lineage"), parent.get("training")
    from_file = [lineage["training"]] if lineage and lineage["tensors"] == parent["tensors"] else []
    from_file += [training] if training else []
    return from_file[:1] or [run["lineage"]["training"] for run in runs]
