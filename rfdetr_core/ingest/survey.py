"""One pass over all images of a dataset, in as many processes as there are cores, decoding only what is new."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import features

from rfdetr_core import files, images
from rfdetr_core.ingest import cache, duplicates, examine
from rfdetr_core.ingest.cache import Cache
from rfdetr_core.ingest.examine import FileFacts
from rfdetr_core.ingest.progress import with_progress
from rfdetr_core.ingest.workers import Workers

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
    sources = [Path(module.__file__ or "") for module in (images, cache, duplicates, examine)]
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
