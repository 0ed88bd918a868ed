"""The weights that a training started from, and those that these started from: a model learned from their data, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ancestor:
    """Weights that a model comes from.

    Attributes:
        steps: How many trainings back: 1 for those that the training of the model started from.
        parameter: By which parameter they were given, such as `pretrain_weights`.
        name: Of their file.
        sha256: Of their file.
        training: The record of their training; None where the record of the model has none.
    """

    steps: int
    parameter: str
    name: str
    sha256: str
    training: dict[str, Any] | None

    def splits(self) -> Iterator[tuple[str, dict[str, int], str | None]]:
        """Each split of its training: the name, how many images and objects, and the SHA-256 of its manifest."""
        training = self.training or {"counts": {}}
        for split, counts in training["counts"].items():
            yield split, counts, training["inputs"].get(f"manifest/{split}.json")


def ancestors(training: Mapping[str, Any], steps: int = 1) -> Iterator[Ancestor]:
    """All that the record of a training names, those of each training behind it."""
    for key, parent in sorted((training.get("parents") or {}).items()):
        before = (parent.get("lineage") or {}).get("training") or parent.get("training")
        yield Ancestor(steps, key, parent["name"], parent["sha256"], before)
        if before:
            yield from ancestors(before, steps + 1)
