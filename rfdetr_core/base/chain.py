"""The text of steps.csv, which training/steps.py writes: its chain of digests, and what it says of weights."""

from __future__ import annotations

from itertools import pairwise

from rfdetr_core.base import files

FILE = "steps.csv"


def chain_link(previous: str, row: str) -> str:
    """The last cell of a row: the SHA-256 of the whole line before it, a line feed, and the cells of the row.

    So it depends on every line before, and whatever is changed, every line after it changes.
    """
    return files.sha256_bytes(f"{previous}\n{row}".encode())


def broken_link(text: str) -> int | None:
    """The number (from 1) of the first line of steps.csv that is not chained to the one before it; None: all are."""
    lines = text.splitlines()
    for number, (previous, line) in enumerate(pairwise(lines), start=2):
        row, _, link = line.rpartition(",")
        if link != chain_link(previous, row):
            return number
    return None


def digest_of(text: str, track: str, epoch: int) -> str | None:
    """The digest of a track's weights at the end of an epoch, which counts from 1; None where steps.csv has none.

    Without an average of the weights, both tracks are the regular ones.
    """
    last_rows = [row for row in rows_of(text) if row.get("epoch") == str(epoch)][-1:]
    return next((row.get(track) or row.get("regular") or None for row in last_rows), None)


def first_difference(before: str, after: str) -> str | None:
    """Where two contents of steps.csv part, in words; None: nowhere.

    Steps without a row lie between the last equal row and the first that differs.
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
    """The rows of steps.csv, cells by the name of their column."""
    header, *lines = text.splitlines() or [""]
    return [dict(zip(header.split(","), line.split(","), strict=False)) for line in lines]
