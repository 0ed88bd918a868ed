"""The records that a format reader returns: splits, images and annotations, unchecked, with their places."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from unicodedata import category

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
MOST_CHARACTERS = 1_000  # the most characters of a metadata value


def short_repr(value: object) -> str:
    """repr() of a value, shortened for messages, however large or deep the value is."""
    try:
        return _REPR.repr(value)
    except ValueError:
        return "a number with thousands of digits"


def is_text(value: object) -> bool:
    """Whether a value is text that can be printed and stored: not blank, no control characters, valid Unicode."""
    return isinstance(value, str) and value.strip() != "" and not {category(c) for c in value} & {"Cc", "Cs"}


def metadata_value(value: object) -> str | None:
    """A metadata value without white space around it; None if it is empty, too long or not one line of text."""
    text = value.strip() if isinstance(value, str) else ""
    return text if is_text(text) and len(text) <= MOST_CHARACTERS else None


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a finding: a file below the dataset folder (with / between folders), and a place in the file.

    line: a line of the file. annotation: the id of an annotation in it. image: the path of the image concerned.
    """

    file: str
    line: int | None = None
    annotation: int | None = None
    image: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object as the label file has it, unchecked.

    box: left, top, width, height. segmentation: a list of polygons [x, y, ...] or an RLE, as in COCO.
    relative: True if box and polygons are fractions of the image, False if they are pixels.
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
    """One image as the label files name it.

    path: below the dataset folder, with / between folders. place: where it is named. width, height: as the labels state
    them, unchecked. id and metadata (column -> value): None if the format has none.
    """

    path: str
    place: Place
    width: Any = None
    height: Any = None
    annotations: list[Annotation] = field(default_factory=list)
    id: int | None = None
    metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a split. id: as its annotations use it. parent: COCO's supercategory."""

    id: int
    name: str
    parent: Any = None


@dataclass(frozen=True, slots=True)
class Split:
    """The images and classes of train, valid or test.

    place: the file that defines the split. listed: all image paths in that file. folder: where the reader looked for
    images that the file does not list.
    """

    place: Place
    images: list[ImageRecord]
    categories: list[Category]
    listed: frozenset[str] = frozenset()
    folder: str | None = None


Dataset = dict[str, Split]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The facts about an image file: its digest and the facts from decoding it, or why it cannot be used.

    Attributes:
        sha256: the digest of the file; empty if it could not be read.
        width, height: in pixels, after its EXIF orientation was applied.
        code, message: the code and message of a finding, if the file cannot be used.
        thumbnail: small grey values, by which `duplicates` compares images. Empty in conversion.
        decoded: True if the pixels were decoded in this run, False if an earlier run decoded them.
        kind, several, doubt: `format`, `has_more_frames` and `doubt` of `images.DecodedImage`. Conversion leaves the
            defaults.
        pixels: see `images.pixel_digest`; None if the file was not decoded and its manifest row has no such digest.
    """

    sha256: str = ""
    width: int = 0
    height: int = 0
    code: str | None = None
    message: str = ""
    thumbnail: bytes = b""
    decoded: bool = False
    kind: str = ""
    several: bool = False
    doubt: str = ""
    pixels: str | None = None


Facts = Mapping[str, FileFacts]  # by path
