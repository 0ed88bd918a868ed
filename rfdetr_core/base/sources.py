"""Importing this module makes Python compile the project's modules from their source files, and ignore their bytecode.

Bytecode in __pycache__ may differ from the source next to it, and git can track it. So dvc.yaml starts each stage with
`-X pycache_prefix=/dev/null`, which disables all bytecode. Importing torch without bytecode takes seconds longer. So
this module enables bytecode again for installed packages, but not for the project's modules. The import has this effect
on the process. So a stage imports this module first.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    SOURCE_SUFFIXES,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from pathlib import Path
from typing import Any, NoReturn

_ROOTS = (Path(__file__).parents[2], Path(__file__).resolve().parents[2])
_PACKAGES = tuple(f"{root}/{package}/" for root in _ROOTS for package in ("rfdetr_core", "stages"))


compiled: dict[Path, bytes] = {}  # file -> the source that was compiled


class _Source(SourceFileLoader):
    """Loads a module from its source. Without path_stats() Python does not look for bytecode."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        """Compile a source and keep it in `compiled`: a module could replace its file while it runs."""
        if isinstance(data, bytes):
            compiled[Path(path)] = data
        return super().source_to_code(data, path, _optimize=_optimize)

    def path_stats(self, path: str) -> NoReturn:
        raise OSError

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Do nothing, so that no bytecode is written."""


# This finder also finds a .pyc without a source. `imports.Guard` then stops the stage, because the file has no digest.
_find = FileFinder.path_hook((_Source, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES))


def _hook(path: str) -> Any:
    if not f"{path}/".startswith(_PACKAGES):
        raise ImportError(path)
    return _find(path)


sys.path_hooks.insert(0, _hook)
for _path in [path for path in sys.path_importer_cache if f"{path}/".startswith(_PACKAGES)]:
    del sys.path_importer_cache[_path]
if sys.pycache_prefix == os.devnull:
    # The processes that Lightning starts for further ranks must begin without bytecode, too.
    os.environ |= {"PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.pycache_prefix = None
