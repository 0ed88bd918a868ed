"""Checks values of files that anyone may have written: limits for all values, and schemas of the fields in use."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import MOST_LEVELS

# The largest size of a file's content. Each value counts as 64 bytes, and a text also as its characters. An object that
# is used several times counts each time, because it is written each time.
MOST_BYTES = 2**26
_MOST_INTEGER = 2**64
_SHOWN = 60  # characters of a value in a message
_KINDS = {
    **dict.fromkeys(("dict_type", "model_type"), "a mapping"),
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    **dict.fromkeys(("float_type", "finite_number"), "a number"),
}


class FileSchema(BaseModel):
    """Base of the schemas of files: the fields that are read. Other keys of the file may hold anything."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


def _inside(name: str) -> str:
    if not name or "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise ValueError("must be the path of a file below the project's root")
    return name


Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1_000), AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Blob = Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]  # git's name of a content
Count = Annotated[int, Field(ge=0, le=10**12)]


def require(schema: type[FileSchema], value: Any, where: str, place: str = "") -> None:
    """Compare the fields of a mapping with a schema. `checked` calls `check_values` and this function.

    Args:
        schema: The fields that are read.
        value: The mapping.
        where: The file's name in messages.
        place: The dotted path of the mapping inside the file; "" for the complete content.

    Raises:
        UserError: a field is missing, has another type or is beyond a limit. The message names the first one.
    """
    try:
        schema.model_validate(value)
    except ValidationError as error:
        first_error = error.errors(include_url=False)[0]
        field = ".".join(short(str(part)) for part in ((place,) if place else ()) + first_error["loc"]) or "its content"
        limits, value_text = first_error.get("ctx", {}), _value_text(first_error["input"])
        kind, reason = first_error["type"], first_error["msg"].removeprefix("Value error, ")
        message = {
            "missing": "it is missing",
            "less_than_equal": f"{value_text} is more than {limits.get('le')}",
            "greater_than_equal": f"{value_text} is less than {limits.get('ge')}",
        }.get(kind, f"{f'it must be {_KINDS[kind]}' if kind in _KINDS else reason}, found {value_text}")
        raise UserError(f"{where}: {field}: {message}") from None


def checked(value: Any, schema: type[FileSchema], where: str) -> dict[str, Any]:
    """Check the content of a JSON file that anyone may have written, and return it. This is the complete check.

    Args:
        value: The parsed content.
        schema: The fields that are read.
        where: The file's name in messages.

    Raises:
        UserError: the content is beyond a limit of `check_values`, or does not match the schema (see `require`).
    """
    check_values(value, where)
    require(schema, value, where)
    return dict(value)


def check_values(value: Any, where: str, place: str = "") -> None:
    """Check the size, depth and value types of a content, without a schema.

    Args:
        value: The content of a file, or a part of it.
        where: The file's name in messages.
        place: The dotted path of the part inside the file; "" for the complete content.

    Raises:
        UserError: a value has another type, a number is not finite, or the content is nested too deeply or too large.
    """
    remaining, waiting = MOST_BYTES, [(value, place, 0)]
    while waiting:
        current, current_place, level = waiting.pop()
        remaining -= 64 + (len(current) if isinstance(current, str) else 0)
        if remaining < 0 or level > MOST_LEVELS:
            raise UserError(
                f"{where}: {place or short(current_place) or 'its content'} has more than {exceeded_limit(level)}."
            )
        if problem := _problem(current):
            raise UserError(f"{where}: {current_place or 'its content'}: {problem}.")
        if isinstance(current, dict):
            for key, item in current.items():
                inner = f"{current_place}.{short(str(key))}" if current_place else short(str(key))
                waiting += [(key, inner, level), (item, inner, level + 1)]
        elif isinstance(current, list | tuple):
            waiting += [(item, current_place, level + 1) for item in current]


def _problem(value: Any) -> str:
    kind = type(value)
    if kind is float:
        return "" if math.isfinite(value) else f"{value} is not a finite number"
    if kind is int:
        return "" if abs(value) <= _MOST_INTEGER else f"a number of {value.bit_length()} bits is too large"
    if kind is str:
        return "" if value.isascii() or _encodes(value) else f"{_value_text(value)} is not valid Unicode"
    if kind is dict:
        mixed = len({type(key) for key in value}) > 1 or not all(type(key) in (str, int) for key in value)
        return "its keys must be texts" if mixed else ""
    return "" if value is None or kind in (bool, list, tuple) else f"a {kind.__name__} does not belong there"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value_text(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    plain = value is None or isinstance(value, bool | int | float | str)
    return (
        short(repr(value[: 2 * _SHOWN] if isinstance(value, str) else value)) if plain else f"a {type(value).__name__}"
    )


def exceeded_limit(level: int) -> str:
    """The limit that a content exceeds: the levels of nesting if `level` exceeds it, else the size."""
    return f"{MOST_LEVELS} levels of nesting" if level > MOST_LEVELS else f"{MOST_BYTES:,} bytes when expanded"


def short(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
