"""Which images `audit --where` selects, by the metadata that was committed with a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path

from rfdetr_core.audit.conditions import Condition
from rfdetr_core.audit.history import NOT_COMMITTED, Commit, History
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.metadata import parse_metadata
from rfdetr_core.lineage.lock import LOCK

_SHOWN = 12

Place = tuple[Commit | None, str]  # a split at a commit


class Selection:
    """The images of any commit for which all conditions hold.

    Raises:
        UserError: a condition has another form.
    """

    def __init__(self, conditions: Sequence[str], history: History) -> None:
        self.where = [Condition.parse(text) for text in conditions]
        self._history = history
        self._columns: set[str] = set()
        self._values: dict[str, set[str]] = {condition.column: set() for condition in self.where}
        self._looked = False

    def __str__(self) -> str:
        """The conditions in one line."""
        return " and ".join(map(str, self.where))

    def each(self, places: Iterable[Place]) -> Iterator[tuple[Place, Set[str] | str]]:
        """The paths of the images of each split that are selected at each commit; a text: why that is not known.

        A set is changed when the next one is asked for: tables of neighbouring commits are mostly alike.
        """
        places = list(dict.fromkeys(places))
        names = [_named(commit, split) for commit, split in places]
        contents = self._history.read(name for name in names if name)
        tables: dict[str, _Table] = {}
        for (commit, split), name in zip(places, names, strict=True):
            if commit is None:
                yield (commit, split), f"the commit that had its {_name(split)} is not known here"
                continue
            content = next(contents)[1] if name else None
            path = self._history.root / _name(split)
            if commit.id == NOT_COMMITTED and path.is_file():
                content = files.read_bytes(path)
            reason = self._why_unknown(content, commit, split)
            table = tables.setdefault(split, _Table(self))
            yield (commit, split), reason or table.selected(content or b"", _where(commit, split))

    def images(self, commit: Commit | None, split: str) -> Set[str] | str:
        """The paths of the images of a split that are selected at a commit; a text: why that is not known."""
        ((_, found),) = self.each([(commit, split)])
        return found

    def images_of(self, path: Path) -> Set[str] | str:
        """The same by a file that lies beside a model."""
        return _Table(self).selected(files.read_bytes(path), str(path)) if path.is_file() else f"there is no {path}"

    def note(self, columns: Iterable[str], values: dict[str, set[str]]) -> None:
        """Take the columns, and by column the values, of a table that was looked at."""
        self._looked = True
        self._columns |= set(columns)
        for column, found in values.items():
            self._values[column] |= found

    def require_known(self) -> None:
        """Raise a UserError of a condition whose column or value no image has that was looked at."""
        for condition in self.where if self._looked else ():
            values = self._values[condition.column]
            if not values:
                known = f"The columns are {listed(sorted(self._columns), _SHOWN)}" if self._columns else ""
                what = f"no image had a column {condition.column} when its model was committed"
                raise UserError(f"--where {condition}: {what}. {known or 'None had metadata'}.")
            if condition.sign == "=" and condition.value not in values:
                known = listed(sorted(values), _SHOWN)
                what = "no image had this value when its model was committed"
                raise UserError(f"--where {condition}: {what}. Values of {condition.column}: {known}.")

    def _why_unknown(self, content: bytes | None, commit: Commit, split: str) -> str:
        where = _where(commit, split)
        if content is None:
            return f"there is no {where}: it is older than metadata, or was committed without"
        blob, name = commit.changed.get(LOCK), _name(split)
        if blob is not None and digests_in(self._history.lock_texts.get(blob, b""), name) != {files.md5_bytes(content)}:
            lock = self._history.lock(blob)
            if lock and lock.out(name) not in (None, files.md5_bytes(content)):
                return f"{where} is not what {LOCK} has there"
        return ""


class _Table:
    """The images that are selected in versions of one table. Of a version that differs in few lines from the one
    before, only these are read: a table of 100,000 images takes a tenth of a second."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._content = b""
        self._selected: set[str] = set()
        self._undecided: dict[str, str] = {}

    def selected(self, content: bytes, where: str) -> Set[str] | str:
        """The paths of the images for which all conditions hold; a text: why that is not known."""
        try:
            gone, come = _changed_lines(self._content, content) or (None, content)
            if gone is None:
                self._selected, self._undecided = set(), {}
            for path in parse_metadata(gone, where) if gone else ():
                self._selected.discard(path)
                self._undecided.pop(path, None)
            self._add(come, where)
        except UserError as error:
            self._content = b""
            return str(error)
        self._content = content
        return next((f"{where}: {path}: {reason}" for path, reason in self._undecided.items()), self._selected)

    def _add(self, content: bytes, where: str) -> None:
        conditions, rows = self._selection.where, parse_metadata(content, where)
        self._selection.note(
            {column for row in rows.values() for column in row},
            {one.column: {row[one.column] for row in rows.values() if one.column in row} for one in conditions},
        )
        for path, row in rows.items():
            answers = [condition.holds(row) for condition in conditions]
            if all(answers):
                self._selected.add(path)
            elif False not in answers:
                open_ = conditions[answers.index(None)]
                self._undecided[path] = f"whether {open_} holds for {open_.column} {row[open_.column]!r} is not certain"


def _changed_lines(old: bytes, new: bytes) -> tuple[bytes, bytes] | None:
    """The lines that only one of two tables has, each with the header; None: the tables cannot be compared so."""
    header = new[: new.find(b"\n") + 1]
    if not header or not old.startswith(header) or b"\r" in new or b"\r" in old:
        return None
    start = _shared(old, new)
    start = new.rfind(b"\n", 0, start) + 1  # the header has one: both begin with it
    rest = [old[start:], new[start:]]
    end = _shared(*rest, at_end=True)
    # The last whole line that differs ends where, from the end, the next line begins that is shared.
    end = rest[1].find(b"\n", len(rest[1]) - end) + 1 if end else 0
    tail = len(rest[1]) - end if end else 0
    before, after = (set(one[: len(one) - tail].split(b"\n")) - {b""} for one in rest)
    # A value with a line end in it is quoted: then a line is not a row.
    if new.count(b'"', 0, start) % 2 or any(line.count(b'"') % 2 for line in before | after):
        return None
    return tuple(b"\n".join([header.rstrip(b"\n"), *sorted(lines), b""]) for lines in (before - after, after - before))  # type: ignore[return-value]


def _shared(one: bytes, other: bytes, *, at_end: bool = False) -> int:
    """How many bytes the two begin or end with alike. Halves are compared: single bytes take 100 times as long."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        parts = ((each[len(each) - middle : len(each) - low] if at_end else each[low:middle]) for each in (one, other))
        low, high = (middle, high) if next(parts) == next(parts) else (low, middle - 1)
    return low


def digests_in(lock: bytes, path: str) -> set[str]:
    """The MD5s that the text of a dvc.lock has of a path, as DVC writes it; nothing is parsed, which takes longer."""
    entry = rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(path).encode()
    return {md5.decode() for md5 in re.findall(entry, lock, re.M)}


def _name(split: str) -> str:
    return f"metadata/{split}.csv"


def _named(commit: Commit | None, split: str) -> str:
    """The name of a table for git; empty for what is in no commit."""
    return f"{commit.id}:./{_name(split)}" if commit and commit.id != NOT_COMMITTED else ""


def _where(commit: Commit, split: str) -> str:
    return f"{_name(split)} {'here' if commit.id == NOT_COMMITTED else f'of commit {commit.id}'}"
