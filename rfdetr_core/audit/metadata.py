"""The images that `audit --where` selects, by the metadata that was committed with a model."""

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

_MAX_LISTED = 12  # columns or values in a message

Place = tuple[Commit | None, str]  # a commit and a split


class Selection:
    """Selects the images that meet all conditions, in any commit.

    Args:
        conditions: Texts such as KEY=VALUE.
        history: The history with the metadata tables.

    Raises:
        UserError: A text is not a condition.
    """

    def __init__(self, conditions: Sequence[str], history: History) -> None:
        self.where = [Condition.parse(text) for text in conditions]
        self._history = history
        self._columns: set[str] = set()
        self._values: dict[str, set[str]] = {condition.column: set() for condition in self.where}
        self._has_read_table = False

    def __str__(self) -> str:
        """The conditions on one line."""
        return " and ".join(map(str, self.where))

    def select(self, places: Iterable[Place]) -> Iterator[tuple[Place, Set[str] | str]]:
        """The paths of the selected images at each place, or a text: why they are not known.

        The next iteration may change the yielded set in place. If you need the paths later, copy the set.

        Args:
            places: Commits and splits. Places in the order of the history are faster.
        """
        places = list(dict.fromkeys(places))
        names = [_git_name(commit, split) for commit, split in places]
        contents = self._history.read(name for name in names if name)
        tables: dict[str, _Table] = {}
        for (commit, split), name in zip(places, names, strict=True):
            if commit is None:
                yield (commit, split), f"it is not known which commit has the {_file_name(split)} of its images"
                continue
            content = next(contents)[1] if name else None
            path = self._history.root / _file_name(split)
            if commit.id == NOT_COMMITTED and path.is_file():
                content = files.read_bytes(path)
            reason = self._why_unknown(content, commit, split)
            table = tables.setdefault(split, _Table(self))
            yield (commit, split), reason or table.select(content or b"", _title(commit, split))

    def images(self, commit: Commit | None, split: str) -> Set[str] | str:
        """The paths of the selected images of a split at a commit, or a text: why they are not known."""
        ((_, paths),) = self.select([(commit, split)])
        return paths

    def images_of(self, path: Path) -> Set[str] | str:
        """The paths of the selected images in a table on disk, or a text: why they are not known."""
        return _Table(self).select(files.read_bytes(path), str(path)) if path.is_file() else f"{path} does not exist"

    def note(self, columns: Iterable[str], values: dict[str, set[str]]) -> None:
        """Remember what a table contains, for `require_known`.

        Args:
            columns: All columns of the table.
            values: By column of a condition: its values in the table.
        """
        self._has_read_table = True
        self._columns |= set(columns)
        for column, texts in values.items():
            self._values[column] |= texts

    def require_known(self) -> None:
        """Raise a UserError if no image in the tables that were read has the column or value of a condition."""
        for condition in self.where if self._has_read_table else ():
            values = self._values[condition.column]
            if not values:
                columns = f"The columns are {listed(sorted(self._columns), _MAX_LISTED)}" if self._columns else ""
                problem = f"no image had a column {condition.column} when its model was committed"
                raise UserError(f"--where {condition}: {problem}. {columns or 'No image had metadata'}.")
            if condition.sign == "=" and condition.value not in values:
                examples = listed(sorted(values), _MAX_LISTED)
                problem = "no image had this value when its model was committed"
                raise UserError(f"--where {condition}: {problem}. Values of {condition.column}: {examples}.")

    def _why_unknown(self, content: bytes | None, commit: Commit, split: str) -> str:
        """Why a table cannot be used: it is missing, or dvc.lock names another one; "" if it can be used."""
        title = _title(commit, split)
        if content is None:
            return f"there is no {title}: the model is older than the folder metadata/, or was committed without it"
        blob, name = commit.changed.get(LOCK), _file_name(split)
        if blob is not None and digests_in(self._history.lock_texts.get(blob, b""), name) != {files.md5_bytes(content)}:
            lock = self._history.lock(blob)
            if lock and lock.out(name) not in (None, files.md5_bytes(content)):
                return f"{title} differs from the one that {LOCK} names there"
        return ""


class _Table:
    """The selected images in successive versions of one metadata table.

    If a version differs in few lines from the previous one, only these lines are parsed: reading a table of 100,000
    images takes a tenth of a second.
    """

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self._content = b""
        self._selected: set[str] = set()
        self._undecided: dict[str, str] = {}

    def select(self, content: bytes, title: str) -> Set[str] | str:
        """The paths of the images that meet all conditions, or a text: why they are not known.

        Args:
            content: The table, a CSV file.
            title: The table's name for a message.
        """
        try:
            removed, added = _changed_lines(self._content, content) or (None, content)
            if removed is None:
                self._selected, self._undecided = set(), {}
            for path in parse_metadata(removed, title) if removed else ():
                self._selected.discard(path)
                self._undecided.pop(path, None)
            self._add(added, title)
        except UserError as error:
            self._content = b""
            return str(error)
        self._content = content
        return next((f"{title}: {path}: {reason}" for path, reason in self._undecided.items()), self._selected)

    def _add(self, content: bytes, title: str) -> None:
        conditions, rows = self._selection.where, parse_metadata(content, title)
        columns = [condition.column for condition in conditions]
        self._selection.note(
            {column for row in rows.values() for column in row},
            {column: {row[column] for row in rows.values() if column in row} for column in columns},
        )
        for path, row in rows.items():
            answers = [condition.holds(row) for condition in conditions]
            if all(answers):
                self._selected.add(path)
            elif False not in answers:
                condition = conditions[answers.index(None)]
                actual = f"{condition.column} {row[condition.column]!r}"
                self._undecided[path] = f"{actual} may or may not meet {condition}"


def _changed_lines(old: bytes, new: bytes) -> tuple[bytes, bytes] | None:
    """(removed lines, added lines) of a table, each part with the header; None if a line may not be a complete row."""
    header = new[: new.find(b"\n") + 1]
    if not header or not old.startswith(header) or b"\r" in new or b"\r" in old:
        return None
    start = _shared_length(old, new)
    start = new.rfind(b"\n", 0, start) + 1  # the start of the first line that differs, after the header
    tails = [old[start:], new[start:]]
    end = _shared_length(*tails, at_end=True)
    # The shared end begins with part of a line. The first whole shared line starts after the next line break.
    end = tails[1].find(b"\n", len(tails[1]) - end) + 1 if end else 0
    shared = len(tails[1]) - end if end else 0
    before, after = (set(tail[: len(tail) - shared].split(b"\n")) - {b""} for tail in tails)
    # A quoted value may contain a line break. Then a line is not a row.
    if new.count(b'"', 0, start) % 2 or any(line.count(b'"') % 2 for line in before | after):
        return None
    return tuple(b"\n".join([header.rstrip(b"\n"), *sorted(lines), b""]) for lines in (before - after, after - before))  # type: ignore[return-value]


def _shared_length(first: bytes, second: bytes, *, at_end: bool = False) -> int:
    """How many bytes two texts share at their start, or at their end.

    A binary search compares halves: comparing single bytes takes 100 times as long.
    """
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        parts = (
            (text[len(text) - middle : len(text) - low] if at_end else text[low:middle]) for text in (first, second)
        )
        low, high = (middle, high) if next(parts) == next(parts) else (low, middle - 1)
    return low


def digests_in(lock: bytes, path: str) -> set[str]:
    """The MD5s of a path in the text of a dvc.lock, as DVC writes it. A search is faster than parsing the YAML."""
    entry = rb"^ *- path: %s\n *hash: md5\n *md5: ([0-9a-f]{32})$" % re.escape(path).encode()
    return {md5.decode() for md5 in re.findall(entry, lock, re.M)}


def _file_name(split: str) -> str:
    return f"metadata/{split}.csv"


def _git_name(commit: Commit | None, split: str) -> str:
    """Git's name of a committed table; "" if it is not in a commit."""
    return f"{commit.id}:./{_file_name(split)}" if commit and commit.id != NOT_COMMITTED else ""


def _title(commit: Commit, split: str) -> str:
    """A table's name for a message."""
    return f"{_file_name(split)} {'here' if commit.id == NOT_COMMITTED else f'of commit {commit.id}'}"
