"""Manifest and class table: which images and classes a split holds, in bytes that depend on content alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.merkle import Tree
from rfdetr_core.base.params import Config

SPLITS = ("train", "valid", "test")


class DataConfig(Config):
    """The `data` section of params.yaml. dir: the dataset folder, where the paths of a manifest start.

    Training and evaluation do not track it: the manifests tell them what it must hold.
    """

    dir: str = "data/sample"

    @field_validator("dir")
    @classmethod
    def _has_one_spelling(cls, value: str) -> str:
        # DVC takes the text from here for dvc.lock: ./data/mine/ would not be the data/mine of data/mine.dvc.
        if value and value != (plain := posixpath.normpath(value)):
            raise ValueError(f"a path has one spelling here. Write {plain}")
        return value


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One image: path below the dataset folder (posix), digest of its bytes, size in pixels as decoded, the digest of
    its canonical annotations, and that of its pixels (see `images.pixel_digest`); None in older manifests."""

    path: str
    sha256: str
    width: int
    height: int
    labels: str
    pixels: str | None = None


_ALWAYS = ("path", "sha256", "width", "height", "labels")


@dataclass(frozen=True)
class ClassEntry:
    """One class: the id that the dataset uses, the index that the model uses, and its name."""

    id: int
    index: int
    name: str


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows sorted by path, one a line, so that git shows and finds single images."""
    ordered = (asdict(row) for row in sorted(rows, key=lambda row: row.path))
    filled = ({key: value for key, value in row.items() if value is not None} for row in ordered)
    lines = [files.canonical_json(row).decode() for row in filled]
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n")


def read_manifest(path: Path) -> list[ManifestRow]:
    """Read what `write_manifest` wrote.

    Raises:
        UserError: missing or malformed.
    """
    try:
        return [ManifestRow(**row) for row in files.read_json(path)]
    except TypeError as error:
        raise UserError(f"{path} is not a manifest of this version ({error}). Run: dvc repro validate") from error


def row_of(values: Mapping[str, Any]) -> ManifestRow:
    """The row of these values, of an older version or a newer one. Raises a KeyError where one is missing."""
    return ManifestRow(**{name: values[name] for name in _ALWAYS}, pixels=values.get("pixels"))


def trees(rows: Iterable[ManifestRow]) -> dict[str, Tree]:
    """Merkle trees of the images of a split: `images`, whose leaves are the digests of their bytes as text; `labelled`,
    of these and those of the labels, with a space between; and `pixels`, unless a row has none."""
    rows = list(rows)
    trees_by_name = {
        "images": Tree(row.sha256 for row in rows),
        "labelled": Tree(f"{row.sha256} {row.labels}" for row in rows),
    }
    pixels = [row.pixels for row in rows if row.pixels is not None]
    return trees_by_name | ({"pixels": Tree(pixels)} if len(pixels) == len(rows) else {})


def roots(rows: Iterable[ManifestRow]) -> dict[str, dict[str, Any]]:
    """Size and root of each of `trees`: what a training record has of a split."""
    return {name: tree.commitment() for name, tree in trees(rows).items()}


def write_classes(path: Path, classes: list[ClassEntry]) -> None:
    """Write the class table in the order of the indexes."""
    files.write_json(path, [asdict(entry) for entry in sorted(classes, key=lambda entry: entry.index)])


def read_classes(path: Path) -> list[ClassEntry]:
    """Read what `write_classes` wrote, in the order of the indexes.

    Raises:
        UserError: missing or malformed.
    """
    try:
        return [ClassEntry(**entry) for entry in files.read_json(path)]
    except TypeError as error:
        raise UserError(f"{path} is not a class table of this version ({error}). Run: dvc repro convert") from error
