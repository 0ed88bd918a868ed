"""Reading files, writing them atomically, JSON and CSV texts, and digests.

Atomically: a reader sees the complete new file or the old one, also after a crash.
"""

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
    """Yield a temporary path next to `path`; rename it onto `path` when the block succeeds, remove it when it fails.

    `path` itself is never opened for writing: with cache.type hardlink or symlink it is an object of DVC's cache.

    Raises:
        UserError: the folder cannot be written or the disk is full. The old file at `path` is unchanged.
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
            f"cannot write {path}: {error.strerror or error}. Free space or make the folder writable. "
            "The old file is unchanged."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading. A pipe could block, and a device may be endless, so both are refused.

    Raises:
        OSError: it cannot be read, or is a folder, pipe, socket or device.
    """
    _require_regular(path, path.stat().st_mode)  # before opening: to open a device may already have an effect

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # the path may have become a pipe since the check

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
    r"""The content of a regular file as text; all line ends become \n.

    Raises what `open_regular` does, and ValueError if the bytes are not text in this encoding.
    """
    with io.TextIOWrapper(open_regular(path), encoding=encoding) as file:
        return file.read()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def copy(source: Path, path: Path) -> None:
    """Copy a file to `path` atomically. Raises a UserError if `source` cannot be read or `path` not be written."""
    with replacing(path) as temporary, open_regular(source) as read, temporary.open("wb") as written:
        shutil.copyfileobj(read, written)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 atomically. Its line ends are kept."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Indented JSON in the key order of the value. Raises ValueError for NaN and infinity."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write the `json_text` of a value atomically."""
    write_text(path, json_text(value))


def csv_text(rows: Iterable[Any], columns: Sequence[str] | None = None) -> str:
    """Rows as CSV, with values as Python prints them. None and numbers that are not finite become empty cells.

    Args:
        rows: Sequences, or mappings from column to value.
        columns: Their names. By default the keys of the rows, in order of first appearance.
    """
    import pandas as pd

    # dtype=object: otherwise an integer column with a None would become floats.
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    return str(table.replace([math.inf, -math.inf], None).to_csv(index=False, lineterminator="\n"))


def write_table(path: Path, rows: Iterable[Any], columns: Sequence[str] | None = None) -> None:
    """Write rows as CSV atomically.

    Args:
        path: The file to write.
        rows: See `csv_text`.
        columns: See `csv_text`.
    """
    write_text(path, csv_text(rows, columns))


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage of this project wrote.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES:,} bytes")
        return parse_json(read_bytes(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Run the stage that writes it: dvc repro") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}). Restore it: dvc checkout, or dvc repro") from error


def parse_json(data: bytes) -> Any:
    """Parse strict JSON: UTF-8, each key once in an object, finite numbers, at most MOST_LEVELS levels of nesting.

    Raises:
        ValueError: the data is something else.
    """
    try:
        hooks: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite}
        hooks |= {"parse_int": _parse_integer} if _LONG.search(data) else {}
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object, **hooks)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except (RecursionError, UnicodeEncodeError) as error:
        raise ValueError(
            "nested too deeply" if isinstance(error, RecursionError) else "a text has half a character"
        ) from None
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
        raise ValueError(f"an object has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return value


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _parse_integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{text[:20]}... has {len(text)} digits, more than the {_MOST_DIGITS} allowed")
    return int(text)


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file. It is read in pieces."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_bytes(data: bytes) -> str:
    """Hexadecimal MD5 of `data`: its name in DVC's cache."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5_file(path: Path) -> str:
    """Hexadecimal MD5 of a file: its name in DVC's cache."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON of a value in its canonical form: sorted keys, no white space, UTF-8. Raises ValueError for NaN."""
    return _CANONICAL.encode(value).encode()


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a value."""
    return sha256_bytes(canonical_json(value))


def changed_digests(
    expected: Mapping[str, str], actual: Mapping[str, str]
) -> Iterable[tuple[str, str | None, str | None]]:
    """Yield (path, expected, actual) if these digests of a path differ. None: the mapping lacks the path."""
    for path in sorted(expected.keys() | actual.keys()):
        if expected.get(path) != actual.get(path):
            yield path, expected.get(path), actual.get(path)


def umask() -> int:
    """The umask of this process: the permission bits that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
