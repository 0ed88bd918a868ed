"""Which images `audit --where` selects, by the metadata that was committed with a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rfdetr_core.audit.history import NOT_COMMITTED, Commit, History
from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.metadata import column_name, parse_metadata
from rfdetr_core.lineage.lock import LOCK

_SHOWN = 12

Rows = Mapping[str, Mapping[str, str]]  # image path -> column -> value


class Selection:
    """The images of any commit for which all conditions hold, each KEY=VALUE.

    Raises:
        UserError: a condition has another form.
    """

    def __init__(self, conditions: Sequence[str], history: History) -> None:
        self.where = [_condition(text) for text in conditions]
        self._history = history
        self._found: dict[tuple[str, str], Rows | str] = {}  # by commit and split
        self._parsed: dict[bytes, Rows | str] = {}
        self._seen: list[Rows] = []

    def __str__(self) -> str:
        """The conditions in one line."""
        return " and ".join(f"{column}={value}" for column, value in self.where)

    def read(self, places: Iterable[tuple[Commit | None, str]]) -> None:
        """Read the metadata of splits at commits, all at once."""
        wanted = {(commit.id, split): commit for commit, split in places if commit is not None}
        wanted = {place: commit for place, commit in wanted.items() if place not in self._found}
        names = {f"{commit}:./{_name(split)}": (commit, split) for commit, split in wanted if commit != NOT_COMMITTED}
        contents = {names[name]: content for name, content in self._history.read(names)}
        for place, commit in wanted.items():
            path = self._history.root / _name(place[1])
            if commit.id == NOT_COMMITTED and path.is_file():
                contents[place] = files.read_bytes(path)
            self._found[place] = self._checked(contents.get(place), commit, place[1])

    def images(self, commit: Commit | None, split: str) -> set[str] | str:
        """The paths of the images of a split that are selected at a commit; a text: why that is not known."""
        if commit is None:
            return f"the commit that had its {_name(split)} is not known here"
        self.read([(commit, split)])
        return self._selected(self._found[commit.id, split])

    def images_of(self, path: Path) -> set[str] | str:
        """The same by a file that lies beside a model."""
        if not path.is_file():
            return f"there is no {path}"
        return self._selected(parse_metadata(files.read_bytes(path), str(path)))

    def require_known(self) -> None:
        """Raise a UserError of a condition whose column or value no image has that was looked at."""
        rows = [row for table in self._seen for row in table.values()]
        for column, value in self.where if self._seen else ():
            values = {row[column] for row in rows if column in row}
            if not values:
                columns = sorted({name for row in rows for name in row})
                known = f"The columns are {listed(columns, _SHOWN)}" if columns else "None had metadata"
                what = f"no image had a column {column} when its model was committed"
                raise UserError(f"--where {column}={value}: {what}. {known}.")
            if value not in values:
                known = listed(sorted(values), _SHOWN)
                what = "no image had this value when its model was committed"
                raise UserError(f"--where {column}={value}: {what}. Values of {column}: {known}.")

    def _selected(self, rows: Rows | str) -> set[str] | str:
        if isinstance(rows, str):
            return rows
        if not any(rows is one for one in self._seen):
            self._seen.append(rows)
        return {path for path, row in rows.items() if all(row.get(column) == value for column, value in self.where)}

    def _checked(self, content: bytes | None, commit: Commit, split: str) -> Rows | str:
        where = f"{_name(split)} {'here' if commit.id == NOT_COMMITTED else f'of commit {commit.id}'}"
        if content is None:
            return f"there is no {where}: it is older than metadata, or was committed without"
        lock = self._history.lock(commit.changed[LOCK]) if LOCK in commit.changed else None
        if lock and lock.out(_name(split)) not in (None, files.md5_bytes(content)):
            return f"{where} is not what {LOCK} has there"
        if content not in self._parsed:
            try:
                self._parsed[content] = parse_metadata(content, where)
            except UserError as error:
                self._parsed[content] = str(error)
        return self._parsed[content]


def _name(split: str) -> str:
    return f"metadata/{split}.csv"


def _condition(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key.strip() and equals and value.strip()):
        raise UserError(f"--where {text} is not KEY=VALUE, such as --where licence=CC0-1.0.")
    return column_name(key), value.strip()
