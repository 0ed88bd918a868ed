"""Where a project keeps the files that one stage leaves for the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProjectPaths:
    """The dataset folder, the folders of validate and convert, and the folder of weights that training may start from.

    The paths of a manifest start at `dataset`.
    """

    dataset: Path
    annotations: Path = Path("annotations")
    manifests: Path = Path("manifest")
    weights: Path = Path("weights")
    metadata: Path = Path("metadata")

    @property
    def classes(self) -> Path:
        """The class table."""
        return self.annotations / "classes.json"

    def split(self, name: str) -> tuple[Path, Path]:
        """Annotations and manifest of a split."""
        return self.annotations / f"{name}.json", self.manifests / f"{name}.json"

    def metadata_of(self, name: str) -> Path:
        """What is known of the images of a split, as `read_metadata` of base/metadata.py reads it."""
        return self.metadata / f"{name}.csv"

    def inputs(self, *splits: str) -> list[Path]:
        """The files that decide a result of these splits, but for the images, whose digests the manifests hold."""
        annotations, manifests = zip(*map(self.split, splits), strict=True)
        return [*annotations, self.classes, *manifests]
