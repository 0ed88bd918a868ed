"""Reads a section of params.yaml into a frozen config. The YAML parser and its rules are those of DVC."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed

PARAMS_FILE = Path("params.yaml")
# Aliases of aliases multiply: with ten per level, nine levels make a billion values.
_MOST_ALIASES = 20
_MOST_BYTES = 2**20


class Config(BaseModel):
    """A section of params.yaml: frozen, typed, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


C = TypeVar("C", bound=Config)


def load_yaml(path: Path) -> Any:
    """Parse YAML 1.2 with the parser DVC uses (YAML 1.1 parsers read 1e-4 as text, off as false).

    Raises:
        UserError: the file is missing or is not UTF-8; it has a syntax error or a doubled key (the message has the
            line); it has too many bytes or aliases; or it is nested too deeply.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than the {_MOST_BYTES:,} allowed.")
        text = files.read_text(path, "utf-8-sig")
        aliases = sum(isinstance(event, AliasEvent) for event in _yaml().parse(text)) if "*" in text else 0
        if aliases > _MOST_ALIASES:
            problem = f"{path} has {aliases} aliases (*name), more than the {_MOST_ALIASES} allowed"
            raise UserError(f"{problem}. Write them out.")
        return _yaml().load(text)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply.") from None
    except (YAMLError, ValueError, OSError) as error:
        raise UserError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error


def load_params(path: Path = PARAMS_FILE) -> dict[Any, Any]:
    """Read all sections of a params file.

    Raises:
        UserError: the file is not readable, has no sections, or has an interpolation (a text with `${`).
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold sections (a mapping), found {type(content).__name__}.")
    refuse_interpolations(content, str(path))
    return content


def refuse_interpolations(content: Any, where: str) -> None:
    """Raise a UserError if a key or value contains `${`. The message begins with `where` and names the keys.

    `dvc exp run -S` uses OmegaConf, which would replace `${oc.env:NAME}` with an environment variable. DVC would then
    write the value, which may be a secret, into params.yaml, dvc.lock and git. So no params file may have one, not even
    in train.notes.
    """
    if keys := _interpolations(content):
        problem = f"{where}: {listed(keys)} has an interpolation (a text with ${{). It is never resolved"
        raise UserError(f"{problem}. Write the value itself; a secret does not belong in params.")


def read_section(config: type[C], section: str, path: Path = PARAMS_FILE) -> C:
    """Read a section of a params file.

    Args:
        config: The class of the section. A key that the file does not have gets the default of this class.
        section: The name of the section. A missing section is like an empty one.
        path: The params file.

    Raises:
        UserError: the file, the section, a key or a value is wrong. The message names it and the known keys.
    """
    values = load_params(path).get(section)
    return parse(config, {} if values is None else values, where=f"{path}: {section}")


def parse(config: type[C], values: Any, where: str) -> C:
    """Make a config from the values of a file.

    Args:
        config: The class.
        values: A mapping from key to value. A missing key gets its default.
        where: The start of every error message, such as "params.yaml: train".

    Raises:
        UserError: a key is unknown, or a value has the wrong type or range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must be a mapping of keys, found {values!r}.")
    try:
        # JSON mode: a list is accepted for a tuple and an integer for a float. Every other type must match exactly.
        return config.model_validate_json(json.dumps(values, default=repr))
    except ValidationError as error:
        raise UserError("\n".join(_explain(config, entry, where) for entry in _by_place(config, error))) from None
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"{where} has a key that is not a text, or contains itself.") from None


def _interpolations(content: Any) -> list[str]:
    """The keys, written as a.b.0, whose name or value contains `${`."""
    # id() of visited containers: with YAML's aliases a container can contain itself.
    keys, visited, remaining = list[str](), set[int](), [("", content)]
    while remaining:
        key, value = remaining.pop()
        if "${" in key or (isinstance(value, str) and "${" in value):
            keys.append(key)
        elif isinstance(value, dict | list) and id(value) not in visited:
            visited.add(id(value))
            items = list(value.items() if isinstance(value, dict) else enumerate(value))
            remaining += [(f"{key}.{name}" if key else str(name), item) for name, item in reversed(items)]
    return keys


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


def _by_place(config: type[Config], error: ValidationError) -> list[dict[str, Any]]:
    """The errors of a config, one per field.

    For a field of several types pydantic reports an error for each type. They are joined.
    """
    merged: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for entry in error.errors():
        field = config.model_fields.get(str(entry["loc"][0])) if entry["loc"] else None
        choice = field is not None and get_origin(field.annotation) in (Union, UnionType)
        location = entry["loc"][:1] if choice else entry["loc"]
        if location in merged:
            merged[location]["msg"] += f"; or: {entry['msg']}"
        else:
            merged[location] = dict(entry) | {"loc": location}
    return list(merged.values())


def _explain(config: type[Config], error: dict[str, Any], where: str) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known_keys = _fields_at(config, error["loc"][:-1])
        close = difflib.get_close_matches(str(error["loc"][-1]), known_keys, n=1)
        hint = f" Did you mean {close[0]}?" if close else ""
        return f"{where}.{key} is not a known key.{hint} Known keys: {', '.join(known_keys)}."
    value = f".{key} is {error['input']!r}" if key else ""
    return f"{where}{value}: {error['msg'].removeprefix('Value error, ')}"


def _fields_at(config: type[Config], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        field = config.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Config):
            break
        config = field.annotation
    return sorted(config.model_fields)
