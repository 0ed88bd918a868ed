"""Digests of files and versions of packages for training records, and helpers that compare and print records."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT

# The packages that decide numeric results. A change of another package does not restart a training.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "pandas", "scipy", "pillow", "pycocotools")
RUN_FILE = "run.json"  # in a run folder: the digest of the training record, and facts such as start and duration
NUMERIC_LOCK = ROOT / "requirements" / "numeric.lock"


def identity(path: Path) -> dict[str, Any]:
    """`sha256` and `size` of a file, and `git`: git's name of its content (a SHA-1 that includes the size)."""
    sha256, git, size = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), path.stat().st_size
    git.update(b"blob %d\0" % size)
    with files.open_regular(path) as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            git.update(piece)
    return {"sha256": sha256.hexdigest(), "size": size, "git": git.hexdigest()}


def identities(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The identity of each file, by the last two parts of its path, such as manifest/train.json."""
    return {f"{path.parent.name}/{path.name}": identity(path) for path in paths}


def environment() -> dict[str, Any]:
    """The versions of packages. `packages`: of Python and PACKAGES. `lock`: the digest of requirements/numeric.lock."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    lock = files.sha256_file(NUMERIC_LOCK) if NUMERIC_LOCK.exists() else None
    return {"lock": lock, "packages": versions}


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def short(value: Any) -> str:
    """A value for a message: digests are shortened, None is "absent"."""
    text = "absent" if value is None else str(value)
    return text[:12] + "..." if len(text) == 64 else text
