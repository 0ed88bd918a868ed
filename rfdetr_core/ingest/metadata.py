"""Metadata of images: metadata.csv at the root of a dataset, and COCO's fields for licence and date."""

from __future__ import annotations

import io
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import listed
from rfdetr_core.base.metadata import PATH, column_name, write_metadata
from rfdetr_core.ingest.canonical import CanonicalImage
from rfdetr_core.ingest.clean import CleanDataset
from rfdetr_core.ingest.findings import Findings
from rfdetr_core.ingest.folder import LINK_OUT, METADATA, leads_outside
from rfdetr_core.ingest.records import MOST_CHARACTERS, ImageRecord, Place, is_text, metadata_value, short_repr

MOST_BYTES = 256 * 2**20
_MOST_COLUMNS = 200
_IMAGE = ("file_name", "file name")
_PLACE = Place(METADATA)

Rows = dict[str, dict[str, str]]  # image path -> column -> value


def read_metadata_csv(root: Path, images: Iterable[str], findings: Findings) -> Rows:
    """Read metadata.csv: the values of each image. Unusable rows and values become findings. No file: no rows.

    A row gives the path of its image. The last parts of the path, such as the file name, are enough if no other image
    has them.

    Args:
        root: the dataset folder.
        images: the paths of all images that the label files name.
        findings: collects the findings.
    """
    if not os.path.lexists(root / METADATA):
        return {}
    text = _read_text(root, findings)
    table = None if text is None else _parse(text, findings)
    if table is None:
        return {}
    (_, header), *rows = table
    columns = _columns(header, findings)
    if columns is None:
        return {}
    image_column, columns = columns.pop(PATH), columns
    names = _ImagesByPathEnd(images)
    by_image: Rows = {}
    lines: dict[str, int] = {}
    doubled = set[str]()
    for line, cells in rows:
        if not any(map(str.strip, cells)):
            continue
        image = _image(line, cells, len(header), image_column, names, findings)
        if image is None:
            continue
        values = _values(Place(METADATA, line, image=image), cells, columns, findings)
        if values != by_image.setdefault(image, values):
            message = f"{image} has other values in line {lines[image]}"
            findings.add("metadata-doubled", Place(METADATA, line, image=image), message)
            doubled.add(image)
        lines.setdefault(image, line)
    return {image: values for image, values in by_image.items() if image not in doubled}


def metadata_of(image: CanonicalImage | ImageRecord, from_csv: Rows) -> dict[str, str]:
    """The metadata of an image. A value of metadata.csv overrides that of the label file; an empty cell does not."""
    return (image.metadata or {}) | from_csv.get(image.path, {})


def write_metadata_of(dataset: CleanDataset, from_csv: Rows, folder: Path) -> None:
    """Write <split>.csv for all three splits, with the images that are kept.

    Args:
        dataset: the images that are kept, by split.
        from_csv: the values in metadata.csv, by image path and column.
        folder: the folder of the three files.
    """
    for name, images in dataset.splits.items():
        write_metadata(folder / f"{name}.csv", {image.path: metadata_of(image, from_csv) for image in images})


def _read_text(root: Path, findings: Findings) -> str | None:
    """The text of the file with Unix line ends. A byte order mark is allowed, since Excel writes one."""
    try:
        if leads_outside(root, METADATA):
            raise OSError(0, f"it is {LINK_OUT}")
        size = (root / METADATA).stat().st_size
        if size > MOST_BYTES:
            raise OSError(0, f"its {size:,} bytes are more than the {MOST_BYTES:,} allowed")
        data = files.read_bytes(root / METADATA)
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        findings.add("metadata-unreadable", Place(METADATA, line), f"byte {data[error.start]:#04x} is not UTF-8")
    except OSError as error:
        findings.add("metadata-unreadable", _PLACE, str(error.strerror))
    return None


def _parse(text: str, findings: Findings) -> list[tuple[int, list[str]]] | None:
    """The rows, each with the number of its first line.

    A row that is longer than the header is cut to one cell more than the header, so that it is still seen as too long.
    """
    import pandas as pd

    # Python's parser, not the C one: it does not pad short rows.
    options: dict[str, Any] = {
        "header": None,
        "dtype": object,
        "na_filter": False,
        "skip_blank_lines": False,
        "engine": "python",
    }
    try:
        width = len(pd.read_csv(io.StringIO(text), nrows=1, **options).columns)
        if width > _MOST_COLUMNS:
            message = f"the header has {width:,} columns, more than the {_MOST_COLUMNS} allowed"
            findings.add("metadata-unreadable", Place(METADATA, 1), message)
            return None
        options |= {"names": range(width + 1), "index_col": False, "on_bad_lines": lambda row: row[: width + 1]}
        table = pd.read_csv(io.StringIO(text), **options)
    except ValueError as error:  # pandas' errors are ValueErrors
        findings.add("metadata-unreadable", _PLACE, f"it is not valid CSV: {error}")
        return None
    rows, line = [], 1
    for row in zip(*(table[column].tolist() for column in table.columns), strict=True):
        cells = [cell for cell in row if cell is not None]
        rows.append((line, cells))
        line += 1 + sum(cell.count("\n") for cell in cells)
    return rows


def _columns(header: list[str], findings: Findings) -> dict[str, int] | None:
    """The usable columns and their numbers; PATH is the column that names the image. None without such a column."""
    place = Place(METADATA, 1)
    names = [column_name(name) for name in header]
    of_image = [number for number, name in enumerate(names) if name.casefold() in _IMAGE]
    if len(of_image) != 1:
        hint = next(
            (
                f". Are its cells separated by {separator!r}? Use commas"
                for separator in ";\t"
                if separator in "".join(header[:1])
            ),
            "",
        )
        message = f"{len(of_image)} columns are called file_name, but one must be. The header is "
        message += listed(map(short_repr, header), 8)
        findings.add("metadata-unreadable", place, message + hint)
        return None
    counts = Counter(name.casefold() for name in names)
    reported = set[str]()
    columns = {PATH: of_image[0]}
    for number, name in enumerate(names):
        folded = name.casefold()
        if number == of_image[0] or (folded in reported and folded):
            continue
        if not is_text(name) or len(name) > MOST_CHARACTERS:
            message = f"the name of column {number + 1} is empty, too long or not text: {short_repr(header[number])}"
        elif folded == PATH:
            message = f"column {number + 1} is called {name}. This name is reserved for the column of the image paths"
        elif counts[folded] > 1:
            same_name = [
                short_repr(cell)
                for cell, other_name in zip(header, names, strict=True)
                if other_name.casefold() == folded
            ]
            message = f"{counts[folded]} columns have the same name: {listed(same_name)}"
        else:
            columns[name] = number
            continue
        findings.add("metadata-column", place, message)
        reported.add(folded)
    return columns


class _ImagesByPathEnd:
    """Finds images by the last parts of their paths.

    first, second: end of a path, such as "b/c.jpg" -> the first and the second image whose path ends with it.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.first: dict[str, str] = {}
        self.second: dict[str, str] = {}
        self._paths = set(images)
        for path in sorted(self._paths):
            for end in _ends(path):
                (self.second if end in self.first else self.first).setdefault(end, path)

    def find(self, name: str) -> list[str]:
        """The images whose path is this name or ends with it: one, two (the name is ambiguous) or an empty list."""
        if name in self._paths:
            return [name]
        return [end[name] for end in (self.first, self.second) if name in end]


def _ends(path: str) -> Iterator[str]:
    while path:
        yield path
        _, _, path = path.partition("/")


def _image(
    line: int, cells: list[str], width: int, image_column: int, names: _ImagesByPathEnd, findings: Findings
) -> str | None:
    """The image that a row names; None, with a finding, if it names no image or may name several."""
    place = Place(METADATA, line)
    if len(cells) != width:
        count = (
            "more cells than the header, which has" if len(cells) > width else f"{len(cells)} cells, but the header has"
        )
        findings.add("metadata-row", place, f"the row has {count} {width}")
        return None
    name = cells[image_column].strip()
    if not name:
        findings.add("metadata-row", place, "the cell file_name is empty")
        return None
    images = names.find(posixpath.normpath(name))
    if len(images) == 1:
        return images[0]
    if images:
        message = f"{short_repr(name)} may mean {' or '.join(images)}"
        findings.add("metadata-ambiguous", place, message)
    else:
        findings.add("metadata-without-image", place, f"no split has the image {short_repr(name)}")
    return None


def _values(place: Place, cells: list[str], columns: dict[str, int], findings: Findings) -> dict[str, str]:
    values = {}
    for name, number in columns.items():
        text = cells[number].strip()
        value = metadata_value(text)
        if value:
            values[name] = value
        elif text:
            size = f"has {len(text):,} characters" if len(text) > MOST_CHARACTERS else f"is {short_repr(text)}"
            message = (
                f"the value of {short_repr(name)} {size}. Allowed: at most {MOST_CHARACTERS:,} characters, "
                "no line end or control character"
            )
            findings.add("metadata-value", place, message)
    return values
