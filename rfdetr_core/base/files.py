"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rfdetr_core.base.errors import UserError

_MOST_BYTES, _MOST_DIGITS = 2**31, 20
_LONG = re.compile(rb"\d{25}")
MOST_LEVELS = 200
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SPECIAL = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block succeeds, remove it when it fails.

    `path` itself is never opened: where DVC links files (cache.type hardlink or symlink), it is an object of the cache.

    Raises:
        UserError: the folder cannot be written or the disk is full. What stood at `path` before is intact.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free space or make the folder writable; "
            "what stood there before is unchanged."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading, if it is one: a pipe would be waited for, and a device may have no end.

    Raises:
        OSError: it cannot be read, or is a folder, pipe, socket or device.
    """
    _require_regular(path, path.stat().st_mode)  # first: to open a device may already do something

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # by now it may be a pipe

    file = open(path, "rb", opener=opener)  # noqa: SIM115
    try:
        _require_regular(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _require_regular(path: Path, mode: int) -> None:
    if kind := _SPECIAL.get(stat.S_IFMT(mode)):
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file. Raises what `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The content of a regular file as text with one kind of line end. Raises what `open_regular` does, ValueError."""
    with io.TextIOWrapper(open_regular(path), encoding=encoding) as file:
        return file.read()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def copy(source: Path, path: Path) -> None:
    """Copy a file to `path`, whole or not at all. Raises a UserError where `path` or `source` fails."""
    with replacing(path) as temporary, open_regular(source) as read, temporary.open("wb") as written:
        shutil.copyfileobj(read, written)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` with the line ends it has, whole or not at all."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Indented JSON with the key order it has; NaN and infinity are refused (ValueError)."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_text` has it, whole or not at all."""
    write_text(path, json_text(value))


def csv_text(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """Rows (sequences, or mappings by column) as CSV, with values as Python prints them.

    None, and a number that is not finite, is an empty cell. columns: by default as the rows bring them up.
    """
    import pandas as pd

    table = pd.DataFrame(rows, columns=columns, dtype=object)  # or 1 beside None would become 1.0
    return str(table.replace([math.inf, -math.inf], None).to_csv(index=False, lineterminator="\n"))


def write_table(path: Path, rows: Iterable[Any], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV (see csv_text), whole or not at all."""
    write_text(path, csv_text(rows, columns))


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        UserError: missing or not JSON.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run the stage that writes it: dvc repro") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}). Restore it: dvc checkout, or dvc repro") from error


def parse_json(data: bytes) -> Any:
    """Parse JSON as strictly as it is written: UTF-8, each key once, finite numbers, levels that code can follow.

    Raises:
        ValueError: it is something else.
    """
    try:
        hooks: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite}
        hooks |= {"parse_int": _parse_integer} if _LONG.search(data) else {}
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, **hooks)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise ValueError("nested too deeply" if isinstance(error, RecursionError) else "half a character") from None
    level: list[Any] = [[value]]
    for _ in range(MOST_LEVELS + 1):
        inner = (value.values() if type(value) is dict else value for value in level)
        level = [item for items in inner for item in items if type(item) in (dict, list)]
        if not level:
            return value
    raise ValueError("nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in an object")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _parse_integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}... has {len(text)} digits")
    return int(text)


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_bytes(data: bytes) -> str:
    """Hexadecimal MD5 of `data`, by which DVC knows it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5_file(path: Path) -> str:
    """Hexadecimal MD5 of a file, by which DVC knows it."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one byte string for a value: sorted keys, no white space, UTF-8, no NaN."""
    return _CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return sha256_bytes(canonical_json(value))


def changed_digests(
    expected: Mapping[str, str], found: Mapping[str, str]
) -> Iterable[tuple[str, str | None, str | None]]:
    """Each path whose digest differs, with both; None: not there."""
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            yield path, expected.get(path), found.get(path)


def umask() -> int:
    """The bits that this process withholds from the modes of new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
