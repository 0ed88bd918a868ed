"""What a result was made from: digests of files, versions of packages, and how records are compared."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT

# What decides numerics. A package that is not here can change without a training starting anew.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "pandas", "scipy", "pillow", "pycocotools")
RUN_FILE = "run.json"  # in a run folder: what the training noted of itself
NUMERIC_LOCK = ROOT / "requirements" / "numeric.lock"


def identity(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, and the name that git gives to its content (a SHA-1 that includes the size)."""
    sha256, git, size = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), path.stat().st_size
    git.update(b"blob %d\0" % size)
    with files.open_regular(path) as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            git.update(piece)
    return {"sha256": sha256.hexdigest(), "size": size, "git": git.hexdigest()}


def identities(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The identity of files under the last two parts of their paths, such as manifest/train.json."""
    return {f"{path.parent.name}/{path.name}": identity(path) for path in paths}


def environment() -> dict[str, Any]:
    """Versions of Python and of the packages that decide numerics, and the digest of the lock that asks for them."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    versions |= {name: metadata.version(name) for name in PACKAGES}
    lock = files.sha256_file(NUMERIC_LOCK) if NUMERIC_LOCK.exists() else None
    return {"lock": lock, "packages": versions}


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def short(value: Any) -> str:
    """A value as a message shows it: digests are cut."""
    text = "absent" if value is None else str(value)
    return text[:12] + "..." if len(text) == 64 else text
