"""Whether what Python would import is what a project's records name."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

from rfdetr_core.base import files

# What decides numerics. A package that is not here can change without a training starting anew.
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "numpy", "pandas", "scipy", "pillow", "pycocotools")
RUN_FILE = "run.json"  # in a run folder: what the training noted of itself
_ROOT = Path(__file__).resolve().parents[2]
NUMERIC_LOCK = _ROOT / "requirements" / "numeric.lock"
# Before a source file Python takes an extension, and before both a package of the same name.
_PACKAGES = [f"/__init__{suffix}" for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)]
_BEFORE_SOURCE = (*EXTENSION_SUFFIXES, *_PACKAGES)
_OWN = ("rfdetr_core", "stages", "ci", "tests", "benchmarks")


def identity(path: Path) -> dict[str, Any]:
    """SHA-256 and size of a file, and the name that git gives to its content (a SHA-1 that includes the size)."""
    sha256, git, size = hashlib.sha256(), hashlib.sha1(usedforsecurity=False), path.stat().st_size
    git.update(b"blob %d\0" % size)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            git.update(piece)
    return {"sha256": sha256.hexdigest(), "size": size, "git": git.hexdigest()}


def identities(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """The identity of files under the last two parts of their paths, such as manifest/train.json."""
    return {f"{path.parent.name}/{path.name}": identity(path) for path in paths}


def code_digests(parts: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of source files by their path; `parts` are files and folders beside this package.

    Those of `stages/` are absent where the package was installed without them.
    """
    found = [path for part in parts for path in ([_ROOT / part] if "." in part else (_ROOT / part).rglob("*.py"))]
    return {path.relative_to(_ROOT).as_posix(): files.sha256_file(path) for path in sorted(found) if path.exists()}


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


def shadows(root: Path) -> list[str]:
    """Files below a project's root that are imported in place of its modules, or of installed ones, as root is first.

    Digests of the source files, and of the list of packages, would not tell it.
    """
    sources = (path for part in _OWN for path in (root / part).rglob("*.py"))
    beside = (Path(f"{path.with_suffix('')}{end}") for path in sources for end in _BEFORE_SOURCE)
    found = [path for path in beside if path.is_file()]
    others = [place for place in sys.path if Path(place).resolve() != root.resolve()]
    for end in (*_BEFORE_SOURCE, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES):
        for path in root.glob(f"*{end}"):
            name = path.relative_to(root).parts[0].partition(".")[0]
            if name not in _OWN and (name in sys.stdlib_module_names or PathFinder.find_spec(name, others)):
                found.append(path)
    return sorted({path.relative_to(root).as_posix() for path in found})
