"""Whether what Python would import is what a project's records name."""

from __future__ import annotations

import sys
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from pathlib import Path

# Before a source file Python takes an extension, and before both a package of the same name.
_PACKAGES = [f"/__init__{suffix}" for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)]
_BEFORE_SOURCE = (*EXTENSION_SUFFIXES, *_PACKAGES)
_OWN = ("rfdetr_core", "stages", "ci", "tests", "benchmarks")


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
            installed = name in sys.stdlib_module_names or PathFinder.find_spec(name, others) is not None
            if installed and name not in _OWN:
                found.append(path)
    return sorted({path.relative_to(root).as_posix() for path in found})
