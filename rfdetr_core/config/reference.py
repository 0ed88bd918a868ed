"""`python -m rfdetr_core.config.reference` writes docs/parameters.md from the config classes, the types of the API, and
the JSON Schemas of answers (rfdetr_core/commands/answers.py) in docs/schemas/.

The types are the keywords and names that an editor completes and mypy checks: see rfdetr_core/api/stubs.py.
"""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.params import Config
from rfdetr_core.config.settings import ABSENT, DIFFERENT, SECTIONS, UPSTREAM
from rfdetr_core.config.upstream_answers import page_lines

HEAD = """# Every option of params.yaml

Written by `python -m rfdetr_core.config.reference`. `train()` takes the keys of `train` and
`runtime`.
"""
TRACKED = {
    "runtime": "Not tracked: a change reruns nothing.",
    "gate": "Not tracked: a change reruns nothing. Read by `ci/compare.py`.",
    "data": "Tracked: a change reruns validate, and what follows where the content differs.",
}


def markdown() -> str:
    """The page."""
    parts = [HEAD]
    for section, config in SECTIONS.items():
        parts += [f"## {section}\n", TRACKED.get(section, "Tracked: a change reruns the stages that read it.") + "\n"]
        parts += ["| key | type | default | meaning |", "|---|---|---|---|", *_rows(section, config), ""]
    parts += [
        "## Defaults that are not upstream's\n",
        f"Of {UPSTREAM}. Keys that upstream does not have are not listed.\n",
        "| key | upstream | here | why |",
        "|---|---|---|---|",
    ]
    for name, (upstream_default, reason) in sorted(DIFFERENT.items()):
        section, _, key = name.partition(".")
        default = _plain(SECTIONS[section].model_fields[key].get_default(call_default_factory=True))
        parts.append(f"| {name} | {upstream_default} | {default} | {reason} |")
    parts += ["", "## Upstream's options that are not here, and why\n", "| option | why |", "|---|---|"]
    absent = [f"| {section}.{key} | {reason} |" for section, keys in ABSENT.items() for key, reason in keys.items()]
    return "\n".join([*parts, *sorted(absent), "", *page_lines(), ""])


def _rows(section: str, config: type[Config], prefix: str = "") -> Iterator[str]:
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from _rows(section, kind, f"{prefix}{name}.")
            continue
        default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        type_text = ", ".join(filter(None, (_kind(kind), *map(_limit, field.metadata))))
        yield f"| {prefix}{name} | {type_text} | {default} | {(field.description or '').replace('|', '/')} |"


def _kind(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is Literal:
        return " / ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " / ".join(map(_kind, inner))
    if origin in (list, tuple):
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return "mapping"
    names = {int: "integer", float: "number", str: "text", bool: "true / false", type(None): "null"}
    return names.get(kind, "anything")


def _limit(limit: Any) -> str:
    """A bound of pydantic's in words."""
    signs = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
    return " ".join(f"{word} {getattr(limit, sign)}" for sign, word in signs.items() if hasattr(limit, sign))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def main() -> None:
    """Write the page, the types, and the schemas of answers."""
    # By its name: no package imports one above it, and with a statement `markdown` would take the seconds of torch.
    generated = importlib.import_module("rfdetr_core.api.stubs").generated()
    schemas = importlib.import_module("rfdetr_core.commands.answers").generated()
    for path, text in ({"docs/parameters.md": markdown()} | generated | schemas).items():
        files.write_text(ROOT / path, text)


if __name__ == "__main__":
    main()
