"""One pass over all images of a dataset, with a worker process per core. A cache avoids decoding an image again.

Every file is read once, so its digest and its decoded pixels come from the same bytes.
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
from rfdetr_core.ingest.folder import LINK_OUT, leads_outside
from rfdetr_core.ingest.records import FileFacts
from rfdetr_core.ingest.workers import Workers, out_of_memory, with_progress

# Values in the cache, about 380 bytes each. The oldest are deleted, but never those of the current dataset.
_KEPT = 1_000_000
_FLUSH = 2_000
_CHECK = 8
_HEAD = struct.Struct("<IIB?B")
_DIGEST = 32  # bytes
_FINDINGS = ("image-unreadable", "image-too-large")
# With fewer images, starting processes takes longer than the processes save.
_WORTH_PROCESSES = 300


class Cache:
    """Facts about images in one SQLite file, by the SHA-256 of the image file.

    A value can be lost, but is never wrong. Each value has a digest. A damaged file is created again. If `checker`
    differs from that of the file, all values are deleted. One process writes at a time; a second process runs without a
    cache. A failure prints one note and is never an error.

    Args:
        path: the file. The attribute `path` is None if the cache cannot be used.
        checker: the digest of everything that determines the facts, see `_checker_digest`.
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
                _note(f"the cache {path} cannot be read and is created again: {error}")
                _remove(path)
                _prepare(path, checker)
        except BlockingIOError:
            self._give_up(f"the cache {path} is in use by another validation")
        except (OSError, sqlite3.Error) as error:
            self._give_up(f"the cache {path} cannot be used: {error}")

    def keep(self, sha256: bytes, value: bytes) -> None:
        """Add a value. Values are written in batches."""
        self._fresh.append((sha256, _check(sha256, value) + value))
        if len(self._fresh) >= _FLUSH:
            self.flush()

    def flush(self, in_use: int = 0) -> None:
        """Write the added values, and delete the oldest beyond the limit. in_use: how many images the dataset has."""
        rows, self._fresh = self._fresh, []
        if self.path is None or not rows:
            return
        try:
            # One connection per write, so that none is open when a process is forked.
            with closing(_connect(self.path)) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO images (sha256, value) VALUES (?, ?)", rows)
                newest = connection.execute("SELECT max(number) FROM images").fetchone()[0]
                if in_use:
                    connection.execute("DELETE FROM images WHERE number <= ?", (newest - max(_KEPT, 2 * in_use),))
        except sqlite3.OperationalError as error:
            self._give_up(f"the cache {self.path} cannot be written: {error}")
        except sqlite3.DatabaseError as error:
            _remove(self.path)
            self._give_up(f"the cache {self.path} is damaged and was removed: {error}")

    def close(self, in_use: int) -> None:
        """Write the remaining values and release the lock."""
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
    # With this setting, a killed process loses nothing. A power failure may damage the file; then it is created again.
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def cache_reader(path: Path | None) -> Callable[[bytes], bytes | None]:
    """A function that reads a cache. Call this in each process: a fork must not use the connection of its parent."""
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
    """Examines images in worker processes. Use it as a context manager, which ends the processes.

    The constructor forks the processes. Create it before the labels are read, so that each fork copies little memory.
    decoded: the number of images that were decoded. known: the number of images whose facts came from the cache.
    seconds: the time for all images.

    Args:
        root: the dataset folder.
        path: the file of the cache. None: no cache.
        max_pixels: larger images become findings.
    """

    def __init__(self, root: Path, path: Path | None, max_pixels: int = images.MAX_PIXELS) -> None:
        self._cache = Cache(path, _checker_digest(max_pixels)) if path else None
        cache_path = self._cache.path if self._cache else None
        self._make_work: Callable[[], Callable[[str], FileFacts]] = partial(_make_work, root, max_pixels, cache_path)
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
        """Yield each path and the facts about the image, in any order.

        Raises:
            UserError: memory ran out, or a worker process was killed.
        """
        start = time.monotonic()
        work = self._make_work() if self._workers is None else None
        results = ((path, _examined(work, path)) for path in paths) if work else self._workers.map(paths)  # type: ignore[union-attr]
        for path, facts in with_progress(results, len(paths), "validate", "images"):
            self.decoded += facts.decoded
            self.known += not facts.decoded and bool(facts.sha256)
            if self._cache and facts.decoded:
                self._cache.keep(bytes.fromhex(facts.sha256), _packed(facts))
            yield path, facts
        self.seconds += time.monotonic() - start


def _checker_digest(max_pixels: int) -> str:
    """A digest of everything that determines the facts about an image: code, limit and library versions."""
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


def examine(root: Path, max_pixels: int, look_up: Callable[[bytes], bytes | None], path: str) -> FileFacts:
    """Read one image of a dataset and compute its digest. Decode it unless the cache has its facts.

    Args:
        root: the dataset folder.
        max_pixels: a larger image becomes a finding.
        look_up: finds the cached facts by the digest of the file.
        path: the image, below the dataset folder.
    """
    file = root / path
    if leads_outside(root, path):
        return FileFacts(code="path-outside", message=f"{path} is {LINK_OUT}")
    try:
        if not file.is_file():
            missing = not file.exists()
            problem = f"there is no file {path}" if missing else f"{path} is not a regular file"
            return FileFacts(code="image-missing" if missing else "image-unreadable", message=problem)
        data = images.read_limited(file, max_pixels)
    except TooLargeError as error:
        return FileFacts(code="image-too-large", message=str(error))
    except OSError as error:
        if shortage_message(error):
            raise
        return FileFacts(code="image-unreadable", message=f"{path} cannot be read: {error.strerror}")
    sha256 = hashlib.sha256(data)
    cached = look_up(sha256.digest())
    if cached is not None:
        return _unpacked(sha256.hexdigest(), cached)
    return replace(_decode(data, max_pixels), sha256=sha256.hexdigest(), decoded=True)


def _decode(data: bytes, max_pixels: int) -> FileFacts:
    try:
        decoded = images.inspect_image(data, "it", max_pixels=max_pixels)
    except UserError as error:
        return FileFacts(code=_FINDINGS[isinstance(error, TooLargeError)], message=str(error))
    width, height = decoded.picture.size
    facts = FileFacts(
        width=width, height=height, kind=decoded.format, several=decoded.has_more_frames, doubt=decoded.doubt
    )
    return replace(facts, thumbnail=duplicates.thumbnail(decoded.picture), pixels=images.pixel_digest(decoded.picture))


def _packed(facts: FileFacts) -> bytes:
    """The facts as the cache stores them: everything that follows from the bytes of the file."""
    if facts.code:
        return _HEAD.pack(0, 0, _FINDINGS.index(facts.code), False, 0) + facts.message.encode(errors="backslashreplace")
    traits = (FORMATS.index(facts.kind), facts.several, DOUBTS.index(facts.doubt))
    return _HEAD.pack(facts.width, facts.height, *traits) + bytes.fromhex(facts.pixels or "") + facts.thumbnail


def _unpacked(sha256: str, value: bytes) -> FileFacts:
    (width, height, number, several, doubt), payload = _HEAD.unpack_from(value), value[_HEAD.size :]
    if width:
        kind, doubt_name = FORMATS[number], DOUBTS[doubt]
        facts = FileFacts(sha256, width, height, kind=kind, several=several, doubt=doubt_name)
        return replace(facts, pixels=payload[:_DIGEST].hex(), thumbnail=payload[_DIGEST:])
    return FileFacts(sha256, code=_FINDINGS[number], message=payload.decode())


def _crashed(path: str, signal: str) -> FileFacts:
    return FileFacts(
        code="image-unreadable", message=f"the decoder crashed at {path} ({signal}). Replace or remove the file."
    )
