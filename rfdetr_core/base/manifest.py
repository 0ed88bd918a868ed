"""Reads and writes manifests and the class table: the images of a split and the classes of a dataset.

Equal content gives equal bytes.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.merkle import Tree
from rfdetr_core.base.params import Config

SPLITS = ("train", "valid", "test")


class DataConfig(Config):
    """The `data` section of params.yaml. The paths of a manifest are relative to the folder `dir`.

    For DVC, training and evaluation depend on the manifests, not on the dataset. A manifest has the digest of every
    image of its split.
    """

    dir: str = Field("data/sample", description="the dataset folder, relative to the root folder of the project")

    @field_validator("dir")
    @classmethod
    def _require_simplest_form(cls, value: str) -> str:
        # DVC copies this text into dvc.lock, where ./data/mine/ would not match the data/mine of data/mine.dvc.
        if value and value != (plain := posixpath.normpath(value)):
            raise ValueError(f"the path must be in its simplest form. Write {plain}")
        return value


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image of a split.

    path: below the dataset folder, with "/". sha256: of the file. width, height: pixels of the decoded image. labels:
    the digest of its canonical annotations. pixels: see `images.pixel_digest`; None in older manifests.
    """

    path: str
    sha256: str
    width: int
    height: int
    labels: str
    pixels: str | None = None


_ALWAYS = ("path", "sha256", "width", "height", "labels")


@dataclass(frozen=True)
class ClassEntry:
    """One class. id: its number in the dataset. index: its number in the model."""

    id: int
    index: int
    name: str


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows sorted by path, one per line, so that git can show and search single images."""
    ordered = (asdict(row) for row in sorted(rows, key=lambda row: row.path))
    filled = ({key: value for key, value in row.items() if value is not None} for row in ordered)
    lines = [files.canonical_json(row).decode() for row in filled]
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read a manifest.

    Raises:
        UserError: it is missing or malformed.
    """
    try:
        return [ManifestRow(**row) for row in files.read_json(path)]
    except TypeError as error:
        raise UserError(f"{path} is not a manifest of this version ({error}). Run: dvc repro validate") from error


def row_of(values: Mapping[str, Any]) -> ManifestRow:
    """Make a row from values that this or another version wrote. Raises KeyError if a required field is missing."""
    return ManifestRow(**{name: values[name] for name in _ALWAYS}, pixels=values.get("pixels"))


def trees(rows: Iterable[ManifestRow]) -> dict[str, Tree]:
    """Merkle trees of a split, by name. The leaves are texts, one for each image:

    images: "<digest of the file>". labelled: "<digest of the file> <digest of the labels>". pixels: "<digest of the
    pixels>"; this tree is missing if a row has no pixel digest.
    """
    rows = list(rows)
    trees_by_name = {
        "images": Tree(row.sha256 for row in rows),
        "labelled": Tree(f"{row.sha256} {row.labels}" for row in rows),
    }
    pixels = [row.pixels for row in rows if row.pixels is not None]
    return trees_by_name | ({"pixels": Tree(pixels)} if len(pixels) == len(rows) else {})


def roots(rows: Iterable[ManifestRow]) -> dict[str, dict[str, Any]]:
    """Size and root of each of `trees`, as a training record keeps them."""
    return {name: tree.commitment() for name, tree in trees(rows).items()}


def write_classes(path: Path, classes: list[ClassEntry]) -> None:
    """Write the class table, sorted by index."""
    files.write_json(path, [asdict(entry) for entry in sorted(classes, key=lambda entry: entry.index)])


def read_classes(path: Path) -> list[ClassEntry]:
    """Read the class table, sorted by index.

    Raises:
        UserError: it is missing or malformed.
    """
    try:
        return [ClassEntry(**entry) for entry in files.read_json(path)]
    except TypeError as error:
        raise UserError(f"{path} is not a class table of this version ({error}). Run: dvc repro convert") from error
