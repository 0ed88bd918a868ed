"""ProjectPaths: the folders and files in which a stage leaves its results for the next stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProjectPaths:
    """The folders of a project.

    dataset: the dataset; the paths of a manifest are relative to it. annotations: written by the stage convert.
    manifests, metadata: written by the stage validate. weights: files that a training may start from.
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
        """The paths of a split's annotations and of its manifest."""
        return self.annotations / f"{name}.json", self.manifests / f"{name}.json"

    def metadata_of(self, name: str) -> Path:
        """The path of a split's metadata, see base/metadata.py."""
        return self.metadata / f"{name}.csv"

    def inputs(self, *splits: str) -> list[Path]:
        """The files that decide a result on these splits. The images' digests are in the manifests."""
        annotations, manifests = zip(*map(self.split, splits), strict=True)
        return [*annotations, self.classes, *manifests]
