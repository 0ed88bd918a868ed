"""One pass over all images of a dataset, in as many processes as there are cores, decoding only what is new.

Every file is opened once: the bytes that are hashed are the bytes that are decoded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO
from urllib.parse import quote

import numpy as np
from PIL import features

from rfdetr_core.base import files, images
from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.images import DOUBTS, FORMATS, TooLargeError
from rfdetr_core.base.memory import shortage_message
from rfdetr_core.base.printing import say
from rfdetr_core.base.processes import may_start_processes, usable_cores
from rfdetr_core.ingest import duplicates
from rfdetr_core.ingest.folder import LINK_OUT, leaves
from rfdetr_core.ingest.records import FileFacts
from rfdetr_core.ingest.workers import Workers, out_of_memory, with_progress

# About 380 bytes each. Older ones make room, but never those of the dataset at hand.
_KEPT = 1_000_000
_FLUSH = 2_000
_CHECK = 8
_HEAD = struct.Struct("<IIB?B")
_DIGEST = 32  # bytes
_FAULTS = ("image-unreadable", "image-too-large")
# Below this, starting processes takes longer than they save.
_WORTH_PROCESSES = 300


class Cache:
    """Values by the SHA-256 of an image's bytes, in one SQLite file; those of another `checker` are forgotten.

    Each value carries a digest, and a damaged file is begun anew: what is kept can be lost, but never be wrong. One
    process writes at a time, another one does without. Whatever goes wrong ends in one note, never in an error.
    path: None where it is not used.
    """

    def __init__(self, path: Path, checker: str) -> None:
        self.path: Path | None = path
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

    def keep(self, sha256: bytes, value: bytes) -> None:
        """Note a value, to be written with others."""
        self._fresh.append((sha256, _check(sha256, value) + value))
        if len(self._fresh) >= _FLUSH:
            self.flush()

    def flush(self, in_use: int = 0) -> None:
        """Write what was noted, and forget the oldest where there is too much; in_use: images of the dataset."""
        rows, self._fresh = self._fresh, []
        if self.path is None or not rows:
            return
        try:
            # A connection for each write: none is open when a process is forked.
            with closing(_connect(self.path)) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO images (sha256, value) VALUES (?, ?)", rows)
                newest = connection.execute("SELECT max(number) FROM images").fetchone()[0]
                if in_use:
                    connection.execute("DELETE FROM images WHERE number <= ?", (newest - max(_KEPT, 2 * in_use),))
        except sqlite3.OperationalError as error:
            self._give_up(f"{self.path} is not written: {error}")
        except sqlite3.DatabaseError as error:
            _remove(self.path)
            self._give_up(f"{self.path} was damaged and is removed: {error}")

    def close(self, in_use: int) -> None:
        """Write the rest and let others write."""
        self.flush(in_use)
        if self._lock is not None:
            self._lock.close()

    def _give_up(self, why: str) -> None:
        _note(why)
        self.path = None


def _prepare(path: Path, checker: str) -> None:
    columns = "number INTEGER PRIMARY KEY, sha256 BLOB UNIQUE, value BLOB"
    with closing(_connect(path)) as connection, connection:
        if connection.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("it is damaged")
        connection.execute("CREATE TABLE IF NOT EXISTS about (checker TEXT)")
        if connection.execute("SELECT checker FROM about").fetchall() != [(checker,)]:
            connection.execute("DROP TABLE IF EXISTS images")
            connection.execute("DELETE FROM about")
            connection.execute("INSERT INTO about VALUES (?)", (checker,))
        connection.execute(f"CREATE TABLE IF NOT EXISTS images ({columns})")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30)
    # A killed process loses nothing by this, a power failure may: then the file is begun anew.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def cache_reader(path: Path | None) -> Callable[[bytes], bytes | None]:
    """A function that reads a cache; made anew in each process, as SQLite's state must not cross a fork."""
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
    say(f"note: {text}. Images are decoded again.", file=sys.stderr)


class Survey:
    """Examines images; to be entered before labels are read, since the processes start then.

    path: of the cache; None: nothing is kept. decoded, known, seconds: what the pass came to.
    """

    def __init__(self, root: Path, path: Path | None, max_pixels: int = images.MAX_PIXELS) -> None:
        self._cache = Cache(path, _checker_digest(max_pixels)) if path else None
        kept = self._cache.path if self._cache else None
        self._make_work: Callable[[], Callable[[str], FileFacts]] = partial(_make_work, root, max_pixels, kept)
        many = len(list(islice((name for _, _, names in os.walk(root) for name in names), _WORTH_PROCESSES)))
        several = many >= _WORTH_PROCESSES and may_start_processes()
        self._workers = Workers(self._make_work, _crashed, usable_cores()) if several else None
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
            UserError: memory ran out, or a worker process was killed.
        """
        start = time.monotonic()
        work = self._make_work() if self._workers is None else None
        found = ((path, _examined(work, path)) for path in paths) if work else self._workers.map(paths)  # type: ignore[union-attr]
        for path, facts in with_progress(found, len(paths), "validate", "images"):
            self.decoded += facts.decoded
            self.known += not facts.decoded and bool(facts.sha256)
            if self._cache and facts.decoded:
                self._cache.keep(bytes.fromhex(facts.sha256), _packed(facts))
            yield path, facts
        self.seconds += time.monotonic() - start


def _checker_digest(max_pixels: int) -> str:
    """Changes with everything that decides what is found of an image's bytes."""
    parts = [part for kind in (features.modules, features.codecs, features.features) for part in kind]
    versions = {part: str(features.version(part)) for part in sorted(parts) if features.check(part)}
    return files.digest(
        {"code": Code().digests(__name__), "limit": max_pixels, "libraries": versions, "numpy": np.__version__}
    )


def _make_work(root: Path, max_pixels: int, cache: Path | None) -> Callable[[str], FileFacts]:
    return partial(examine, root, max_pixels, cache_reader(cache))


def _examined(work: Callable[[str], FileFacts], path: str) -> FileFacts:
    try:
        return work(path)
    except Exception as error:
        if shortage_message(error):
            raise out_of_memory(path) from error
        raise


def examine(root: Path, max_pixels: int, recall: Callable[[bytes], bytes | None], path: str) -> FileFacts:
    """Read and hash one image of a dataset, and decode it unless the cache recalls its bytes."""
    file = root / path
    if leaves(root, path):
        return FileFacts(code="path-outside", fault=f"{path} is {LINK_OUT}")
    try:
        if not file.is_file():
            missing = not file.exists()
            fault = f"there is no file {path}" if missing else f"{path} is no regular file"
            return FileFacts(code="image-missing" if missing else "image-unreadable", fault=fault)
        data = images.read_limited(file, max_pixels)
    except TooLargeError as error:
        return FileFacts(code="image-too-large", fault=str(error))
    except OSError as error:
        if shortage_message(error):
            raise
        return FileFacts(code="image-unreadable", fault=f"{path} cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(data)
    known = recall(sha256.digest())
    if known is not None:
        return _unpacked(sha256.hexdigest(), known)
    return replace(_decode(data, max_pixels), sha256=sha256.hexdigest(), decoded=True)


def _decode(data: bytes, max_pixels: int) -> FileFacts:
    try:
        seen = images.inspect_image(data, "it", max_pixels=max_pixels)
    except UserError as error:
        return FileFacts(code=_FAULTS[isinstance(error, TooLargeError)], fault=str(error))
    width, height = seen.picture.size
    found = FileFacts(width=width, height=height, kind=seen.format, several=seen.has_more_frames, doubt=seen.doubt)
    return replace(found, thumbnail=duplicates.thumbnail(seen.picture), pixels=images.pixel_digest(seen.picture))


def _packed(facts: FileFacts) -> bytes:
    """What the cache keeps: all that follows from the bytes of the file."""
    if facts.code:
        return _HEAD.pack(0, 0, _FAULTS.index(facts.code), False, 0) + facts.fault.encode(errors="backslashreplace")
    told = (FORMATS.index(facts.kind), facts.several, DOUBTS.index(facts.doubt))
    return _HEAD.pack(facts.width, facts.height, *told) + bytes.fromhex(facts.pixels or "") + facts.thumbnail


def _unpacked(sha256: str, value: bytes) -> FileFacts:
    (width, height, number, several, doubt), rest = _HEAD.unpack_from(value), value[_HEAD.size :]
    if width:
        kind, told = FORMATS[number], DOUBTS[doubt]
        found = FileFacts(sha256, width, height, kind=kind, several=several, doubt=told)
        return replace(found, pixels=rest[:_DIGEST].hex(), thumbnail=rest[_DIGEST:])
    return FileFacts(sha256, code=_FAULTS[number], fault=rest.decode())


def _crashed(path: str, signal: str) -> FileFacts:
    return FileFacts(code="image-unreadable", fault=f"the decoder crashed at {path} ({signal}). Replace or remove it.")
