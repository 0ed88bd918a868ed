"""Metadata of images, such as source, licence and date: metadata/<split>.csv, which follows the manifest of a split."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError

PATH = "path"  # the first column: the image, as the manifest names it
# COCO's `license` and `date_captured`, and what people call them: one column each.
_SAME = {"license": "licence", "licence": "licence", "date_captured": "date", "date": "date"}


def column_name(text: str) -> str:
    """The one name of a column: without white space at its ends; `license` is `licence`, `date_captured` is `date`."""
    name = text.strip()
    return _SAME.get(name.casefold(), name)


def write_metadata(path: Path, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Write what `read_metadata` gives: sorted by path, and the columns by name. Empty rows and columns are left out.

    rows: image path -> column -> value.
    """
    columns = sorted({column for values in rows.values() for column, value in values.items() if value})
    filled = [image for image in sorted(rows) if any(rows[image].values())]
    files.write_table(
        path, [[image, *(rows[image].get(column, "") for column in columns)] for image in filled], [PATH, *columns]
    )


def read_metadata(path: Path) -> dict[str, dict[str, str]]:
    """Image path -> column -> value; images without a value, and empty cells, are left out.

    Raises:
        UserError: missing or malformed.
    """
    try:
        content = files.read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run the stage that writes it: dvc repro validate") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Restore it: git restore {path}") from error
    return parse_metadata(content, str(path))


def parse_metadata(content: bytes, where: str) -> dict[str, dict[str, str]]:
    """As `read_metadata`, of the content of a file; where: what names it.

    Raises:
        UserError: it is not such a file.
    """
    import pandas as pd

    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, na_filter=False)
    except ValueError as error:  # pandas' own errors are such
        raise UserError(f"{where} is not a table of metadata ({error}). Run: dvc repro validate") from error
    first_column, *columns = table.columns
    if first_column != PATH or not isinstance(table.index, pd.RangeIndex):  # cells beyond the header would be an index
        raise UserError(f"{where} is not a table of metadata, {PATH} first. Run: dvc repro validate")
    rows = zip(*(table[column].tolist() for column in table.columns), strict=True)
    rows_by_path = {
        row[0]: {column: value for column, value in zip(columns, row[1:], strict=True) if value} for row in rows
    }
    return {image: values for image, values in rows_by_path.items() if values}
