"""Functions for the text of steps.csv: read its rows, find the first difference, check the digests that chain the rows.

The last cell of a row is a digest of the row and of all rows before it. training/steps.py writes the file.
"""

from __future__ import annotations

from itertools import pairwise

from rfdetr_core.base import files

FILE = "steps.csv"


def chain_link(previous: str, row: str) -> str:
    """The last cell of a row: the SHA-256 of the complete previous line, a line feed, and the other cells of the row.

    So a change in one line changes the last cell of that line and of every line after it.
    """
    return files.sha256_bytes(f"{previous}\n{row}".encode())


def broken_link(text: str) -> int | None:
    """The number (from 1) of the first line whose last cell does not match the rest of the line and the previous line.

    None: all lines match.
    """
    lines = text.splitlines()
    for number, (previous, line) in enumerate(pairwise(lines), start=2):
        row, _, link = line.rpartition(",")
        if link != chain_link(previous, row):
            return number
    return None


def digest_of(text: str, track: str, epoch: int) -> str | None:
    """The digest of a track's weights at the end of an epoch. None: steps.csv does not have it.

    Args:
        text: The content of steps.csv.
        track: "regular" or "ema". A run without EMA weights has no `ema` digest; then the regular one is returned.
        epoch: Counts from 1.
    """
    last_rows = [row for row in rows_of(text) if row.get("epoch") == str(epoch)][-1:]
    return next((row.get(track) or row.get("regular") or None for row in last_rows), None)


def first_difference(before: str, after: str) -> str | None:
    """Describe the first difference between two contents of steps.csv. None: they are equal.

    Not every step has a row. So the sentence names the first row that differs and the last row that is equal: the
    difference began between them.
    """
    equal = "0"
    for old, new in zip(rows_of(before), rows_of(after), strict=False):
        keys = [key for key in old if key != "chain" and old[key] != new.get(key)]
        if keys:
            change = f"{keys[0]} {old[keys[0]]}, here {new.get(keys[0])}"
            return f"from step {old['step']} on, in epoch {old['epoch']} ({change}; equal up to step {equal})"
        equal = old["step"]
    return None if before == after else f"after step {equal}"


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of steps.csv; each maps a column name to a cell."""
    header, *lines = text.splitlines() or [""]
    return [dict(zip(header.split(","), line.split(","), strict=False)) for line in lines]
