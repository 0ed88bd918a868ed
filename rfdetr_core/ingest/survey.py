"""One pass over all images of a dataset, in as many processes as there are cores, decoding only what is new."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO
from urllib.parse import quote

import numpy as np
from PIL import features

from rfdetr_core.base import files, images
from rfdetr_core.ingest import duplicates, examine
from rfdetr_core.ingest.examine import FileFacts
from rfdetr_core.ingest.workers import Workers, with_progress

# About 350 bytes each. Older ones make room, but never those of the dataset at hand.
_KEPT = 1_000_000
_FLUSH = 2_000
_CHECK = 8


class Cache:
    """Values by the SHA-256 of an image's bytes, in one SQLite file; those of another `checker` are forgotten.

    Each value carries a digest, and a damaged file is begun anew: what is kept can be lost, but never be wrong. One
    process writes at a time, another one does without. Whatever goes wrong ends in one note, never in an error.
    """

    def __init__(self, path: Path, checker: str) -> None:
        self._path: Path | None = path
        self._fresh: list[tuple[bytes, bytes]] = []
        self._lock: IO[str] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = path.with_suffix(".lock").open("a")
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                _prepare(path, checker)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError as error:
                _note(f"{path} is begun anew: {error}")
                _remove(path)
                _prepare(path, checker)
        except BlockingIOError:
            self._give_up(f"{path} is in use by another validation")
        except (OSError, sqlite3.Error) as error:
            self._give_up(f"{path} is not used: {error}")

    def reader(self) -> Callable[[], Callable[[bytes], bytes | None]]:
        """What a process of its own calls to get a look-up: SQLite's state must not cross a fork."""
        return partial(_lookup, self._path)

    def keep(self, sha256: bytes, value: bytes) -> None:
        """Note a value, to be written with others."""
        self._fresh.append((sha256, _check(sha256, value) + value))
        if len(self._fresh) >= _FLUSH:
            self.flush()

    def flush(self, in_use: int = 0) -> None:
        """Write what was noted, and forget the oldest where there is too much; in_use: images of the dataset."""
        rows, self._fresh = self._fresh, []
        if self._path is None or not rows:
            return
        try:
            # A connection for each write: none is open when a process is forked.
            connection = _connect(self._path)
            with connection:
                connection.executemany("INSERT OR REPLACE INTO images (sha256, value) VALUES (?, ?)", rows)
                newest = connection.execute("SELECT max(number) FROM images").fetchone()[0]
                if in_use:
                    connection.execute("DELETE FROM images WHERE number <= ?", (newest - max(_KEPT, 2 * in_use),))
            connection.close()
        except sqlite3.OperationalError as error:
            self._give_up(f"{self._path} is not written: {error}")
        except sqlite3.DatabaseError as error:
            _remove(self._path)
            self._give_up(f"{self._path} was damaged and is removed: {error}")

    def close(self, in_use: int) -> None:
        """Write the rest and let others write."""
        self.flush(in_use)
        if self._lock is not None:
            self._lock.close()

    def _give_up(self, why: str) -> None:
        _note(why)
        self._path = None


def _prepare(path: Path, checker: str) -> None:
    connection = _connect(path)
    try:
        with connection:
            if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("it is damaged")
            connection.execute("CREATE TABLE IF NOT EXISTS about (checker TEXT)")
            if connection.execute("SELECT checker FROM about").fetchall() != [(checker,)]:
                connection.execute("DROP TABLE IF EXISTS images")
                connection.execute("DELETE FROM about")
                connection.execute("INSERT INTO about VALUES (?)", (checker,))
            connection.execute(
                "CREATE TABLE IF NOT EXISTS images (number INTEGER PRIMARY KEY, sha256 BLOB UNIQUE, value BLOB)"
            )
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    # A killed process loses nothing by this, a power failure may: then the file is begun anew.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _lookup(path: Path | None) -> Callable[[bytes], bytes | None]:
    if path is None:
        return lambda _: None
    try:
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=30)
    except sqlite3.Error:
        return lambda _: None

    def look_up(sha256: bytes) -> bytes | None:
        try:
            row = connection.execute("SELECT value FROM images WHERE sha256 = ?", (sha256,)).fetchone()
        except sqlite3.Error:
            return None
        value = row[0] if row and isinstance(row[0], bytes) else b""
        return value[_CHECK:] if value and value[:_CHECK] == _check(sha256, value[_CHECK:]) else None

    return look_up


def _check(sha256: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(sha256 + value, digest_size=_CHECK).digest()


def _remove(path: Path) -> None:
    for suffix in ("", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _note(text: str) -> None:
    print(f"note: {text}. Images are decoded again.", file=sys.stderr)


# Below this, starting processes takes longer than they save.
_WORTH_PROCESSES = 300


class Survey:
    """Examines images; to be entered before labels are read, since the processes start then.

    path: of the cache; None: nothing is kept. decoded, known, seconds: what the pass came to.
    """

    def __init__(self, root: Path, path: Path | None, max_pixels: int = images.MAX_PIXELS) -> None:
        self._root = root
        self._cache = Cache(path, _checker_digest(max_pixels)) if path else None
        self._make_work: Callable[[], Callable[[str], FileFacts]] = partial(
            _make_work, root, max_pixels, self._cache.reader() if self._cache else None
        )
        many = len(list(islice((name for _, _, names in os.walk(root) for name in names), _WORTH_PROCESSES)))
        self._workers = Workers(self._make_work, _crashed, _cores()) if many >= _WORTH_PROCESSES else None
        self.decoded = self.known = 0
        self.seconds = 0.0

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers:
            self._workers.close()
        if self._cache:
            self._cache.close(in_use=self.decoded + self.known)

    def examine(self, paths: list[str]) -> Iterator[tuple[str, FileFacts]]:
        """Each path and what is found of it, in any order.

        Raises:
            UserError: a worker process was killed.
        """
        start = time.monotonic()
        work = self._make_work() if self._workers is None else None
        found = ((path, work(path)) for path in paths) if work else self._workers.map(paths)  # type: ignore[union-attr]
        for path, facts in with_progress(found, len(paths), "validate", "images"):
            self.decoded += facts.decoded
            self.known += not facts.decoded and bool(facts.sha256)
            if self._cache and facts.decoded:
                self._cache.keep(bytes.fromhex(facts.sha256), facts.value())
            yield path, facts
        self.seconds += time.monotonic() - start


def _checker_digest(max_pixels: int) -> str:
    """Changes with everything that decides what is found of an image's bytes."""
    sources = [Path(__file__), *(Path(module.__file__ or "") for module in (images, duplicates, examine))]
    codes = {path.name: files.sha256_file(path) for path in sources}
    parts = [part for kind in (features.modules, features.codecs, features.features) for part in kind]
    versions = {part: str(features.version(part)) for part in sorted(parts) if features.check(part)}
    return files.digest({"code": codes, "limit": max_pixels, "libraries": versions, "numpy": np.__version__})


def _make_work(
    root: Path, max_pixels: int, reader: Callable[[], Callable[[bytes], bytes | None]] | None
) -> Callable[[str], FileFacts]:
    return partial(examine.examine, root, max_pixels, reader() if reader else lambda _: None)


def _crashed(path: str, signal: str) -> FileFacts:
    return FileFacts(code="image-unreadable", fault=f"the decoder crashed at {path} ({signal}). Replace or remove it.")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
