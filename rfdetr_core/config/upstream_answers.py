"""Messages for users of upstream's names, and the section of docs/parameters.md with these names."""

from __future__ import annotations

from rfdetr_core.config.settings import UPSTREAM
from rfdetr_core.config.upstream import API, Row
from rfdetr_core.config.upstream_modules import INNER
from rfdetr_core.export.config import ABSENT


def missing_name(name: str) -> str | None:
    """The message for a user who imports a public name of upstream from a module that does not have it.

    None: upstream has no such name.
    """
    for row in (*API, *INNER):
        if name in row.names.split() and row.owners.startswith("rfdetr"):
            return _message(row, name)
    return None


def missing_member(name: str) -> str | None:
    """The message about a member of upstream's class RFDETR that is not here. None: upstream has no such member."""
    for row in API:
        if not row.equivalent and name in row.names.split() and row.owners == "RFDETR":
            return _message(row, name)
    return None


def _message(row: Row, name: str) -> str:
    note = f": {row.note}" if row.note else ""
    return f"{name} of {UPSTREAM} is {row.path(name) + ' here' if row.equivalent else 'not here'}{note}."


def page_lines() -> list[str]:
    """The section of docs/parameters.md."""
    head = ["## Upstream's public names", "", f"Every public name of {UPSTREAM}, with its equivalent here."]
    head += [
        "The fields of `TrainConfig` are keys of `train` and `runtime` above, those of `ModelConfig` keys of `model`."
    ]
    table = ["| name | in upstream | here |", "|---|---|---|"]
    single = [_line(row, name) for row in API for name in row.names.split()]
    single += [f"| {name} | RFDETR.export() | not here: {reason} |" for name, reason in ABSENT.items()]
    inner = ["### Upstream's internal names", ""]
    grouped = [_line(row, *row.names.split()) for row in INNER]
    return [*head, "", *table, *sorted(single), "", *inner, *table, *grouped]


def _line(row: Row, *names: str) -> str:
    paths = dict.fromkeys(row.path(name) for name in names)
    answer = ", ".join(f"`{path}`" for path in paths) if row.equivalent else "not here"
    note = f": {row.note}" if row.note else ""
    return f"| {', '.join(names)} | {', '.join(row.owners.split())} | {answer}{note} |"
