"""What a format reader gives: annotations as they stand in the files, each with the place it stands at."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
MOST_CHARACTERS = 1_000  # of a value of metadata


def shown(value: object) -> str:
    """A value as a message can hold it, however large or deep it is."""
    try:
        return _REPR.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def is_text(value: object) -> bool:
    """Whether a value is a name that can be printed and stored: not blank, no control character, valid Unicode."""
    return isinstance(value, str) and value.strip() != "" and not {category(c) for c in value} & {"Cc", "Cs"}


def metadata_value(value: object) -> str | None:
    """A value of metadata without white space at its ends; None where it is empty, too long or no text of one line."""
    text = value.strip() if isinstance(value, str) else ""
    return text if is_text(text) and len(text) <= MOST_CHARACTERS else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is: a file below the dataset folder (posix), a line of it or the id of an annotation in it, and
    the image that is concerned."""

    file: str
    line: int | None = None
    annotation: int | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object as the file has it, unchecked.

    box: left, top, width, height. segmentation: a list of polygons [x, y, ...] or an RLE, as in COCO.
    relative: box and polygons are fractions of the image, otherwise pixels.
    """

    place: Place
    category: Any
    box: Any
    segmentation: Any = None
    area: Any = None
    crowd: Any = 0
    relative: bool = False


@dataclass(slots=True)
class ImageRecord:
    """One image: path below the dataset folder (posix), where it is named, the claimed size, its annotations, its id
    and its metadata (value by column) where the format gives them."""

    path: str
    place: Place
    width: Any = None
    height: Any = None
    annotations: list[Annotation] = field(default_factory=list)
    id: int | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a split under the id that its annotations use; parent: COCO's supercategory."""

    id: int
    name: str
    parent: Any = None


@dataclass(frozen=True, slots=True)
class Split:
    """The images and classes of train, valid or test; place: the file that defines it; listed: all paths in it.

    folder: where the reader has looked for images that are not listed.
    """

    place: Place
    images: list[ImageRecord]
    categories: list[Category]
    listed: frozenset[str] = frozenset()
    folder: str | None = None


Dataset = dict[str, Split]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Digest of an image file, its size as decoded and its thumbnail (see `duplicates`), or what is wrong with it: code
    and text of a finding. decoded: the pixels were looked at now, not in an earlier run. kind, several, doubt: see
    `images.DecodedImage`; empty where only the manifest is known. pixels: see `images.pixel_digest`; None where nothing
    was decoded and the manifest is older."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    code: str | None = None
    fault: str = ""
    thumbnail: bytes = b""
    decoded: bool = False
    kind: str = ""
    several: bool = False
    doubt: str = ""
    pixels: str | None = None


Facts = Mapping[str, FileFacts]  # by path
