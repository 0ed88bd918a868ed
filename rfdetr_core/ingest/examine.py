"""Every image file, opened once: the bytes that are hashed are the bytes that are decoded."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rfdetr_core import files, images
from rfdetr_core.errors import UserError
from rfdetr_core.ingest.paths import leaves

# Below this, starting processes takes longer than they save.
_WORTH_PROCESSES = 300


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Digest of an image file and its size as decoded, or what is wrong with it: code and text of a finding."""

    sha256: str = ""
    width: int = 0
    height: int = 0
    code: str | None = None
    fault: str = ""


def examine(root: Path, path: str) -> FileFacts:
    """Read, hash and decode one image of a dataset."""
    file = root / path
    if leaves(root, path):
        return FileFacts(code="path-outside", fault=f"{path} is a link out of the dataset folder")
    try:
        if not file.is_file():
            missing = not file.exists()
            fault = f"there is no file {path}" if missing else f"{path} is no regular file"
            return FileFacts(code="image-missing" if missing else "image-unreadable", fault=fault)
        data = file.read_bytes()
        picture = images.decode(data, path)
    except OSError as error:
        return FileFacts(code="image-unreadable", fault=f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        return FileFacts(code="image-unreadable", fault=str(error))
    return FileFacts(files.sha256_bytes(data), picture.width, picture.height)


def examine_all(root: Path, paths: list[str]) -> Iterator[tuple[str, FileFacts]]:
    """Examine images in the order of `paths`, many of them in as many processes as there are processor cores."""
    work = partial(examine, root)
    if len(paths) < _WORTH_PROCESSES:
        yield from zip(paths, map(work, paths), strict=True)
        return
    # A forked process does not run the caller's script again, as others do where that has no main guard.
    fork = "fork" in multiprocessing.get_all_start_methods()
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("fork" if fork else None)) as pool:
        yield from zip(paths, pool.map(work, paths, chunksize=32), strict=True)
