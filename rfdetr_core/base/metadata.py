"""Reads and writes metadata/<split>.csv: metadata of the images of a split, such as source, licence and date."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError

PATH = "path"  # the first column: the image, as the manifest names it
# Other names of a column -> its name. `license` and `date_captured` are COCO's names.
_SAME = {"license": "licence", "licence": "licence", "date_captured": "date", "date": "date"}


def column_name(text: str) -> str:
    """A column's name without white space at its ends; `license` becomes `licence`, `date_captured` becomes `date`."""
    name = text.strip()
    return _SAME.get(name.casefold(), name)


def write_metadata(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write metadata/<split>.csv: rows sorted by path, columns by name. Empty rows and columns are left out.

    rows: image path -> column -> value.
    """
    columns = sorted({column for values in rows.values() for column, value in values.items() if value})
    filled = [image for image in sorted(rows) if any(rows[image].values())]
    files.write_table(
        path, [[image, *(rows[image].get(column, "") for column in columns)] for image in filled], [PATH, *columns]
    )


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Image path -> column -> value. Empty cells and images without a value are left out.

    Raises:
        UserError: the file is missing or malformed.
    """
    try:
        content = files.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run the stage that writes it: dvc repro validate") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Restore it: git restore {path}") from error
    return parse_metadata(content, str(path))


def parse_metadata(content: bytes, where: str) -> dict[str, dict[str, str]]:
    """Parse the content of a metadata file, see `read_metadata`. where: the file's name in messages.

    Raises:
        UserError: the content is malformed.
    """
    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, na_filter=False)
    except ValueError as error:  # the errors of pandas' parser are subclasses
        raise UserError(f"{where} is not a table of metadata ({error}). Run: dvc repro validate") from error
    first_column, *columns = table.columns
    if first_column != PATH or not isinstance(
        table.index, pd.RangeIndex
    ):  # pandas makes an index of cells beyond the header
        raise UserError(f"{where} is not a table of metadata: its first column must be {PATH}. Run: dvc repro validate")
    rows = zip(*(table[column].tolist() for column in table.columns), strict=True)
    rows_by_path = {
        row[0]: {column: value for column, value in zip(columns, row[1:], strict=True) if value} for row in rows
    }
    return {image: values for image, values in rows_by_path.items() if values}
