"""The ancestors of a model: the weights that its training started from, and the weights before these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ancestor:
    """Weights among the ancestors of a model, as the model's own lineage describes them.

    `audit.ancestors.Ancestor` is another class: it also uses the run records in git.

    Attributes:
        steps: The generation: 1 for the weights that the model's training started from, 2 for the weights that the
            training of generation 1 started from.
        parameter: The parameter that named them, such as `pretrain_weights`.
        name: The name of their file.
        sha256: The SHA-256 of their file.
        training: Their training record; None if the model's lineage has none.
    """

    steps: int
    parameter: str
    name: str
    sha256: str
    training: dict[str, Any] | None

    def splits(self) -> Iterator[tuple[str, dict[str, int], str | None]]:
        """The splits of its training: name, numbers of images and objects, and the SHA-256 of the manifest."""
        training = self.training or {"counts": {}}
        for split, counts in training["counts"].items():
            yield split, counts, training["inputs"].get(f"manifest/{split}.json")


def ancestors(training: Mapping[str, Any], steps: int = 1) -> Iterator[Ancestor]:
    """All ancestors that a training record names, recursively."""
    for key, parent in sorted((training.get("parents") or {}).items()):
        before = (parent.get("lineage") or {}).get("training") or parent.get("training")
        yield Ancestor(steps, key, parent["name"], parent["sha256"], before)
        if before:
            yield from ancestors(before, steps + 1)
