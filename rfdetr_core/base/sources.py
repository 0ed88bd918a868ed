"""To import this module is to import the project's other modules from their source files from here on.

Bytecode in __pycache__ need not be that of the source beside it, and git can carry it. dvc.yaml therefore starts a
stage without reading any (`-X pycache_prefix=/dev/null`). That would cost seconds where torch is imported, so it ends
here for installed packages, whose bytecode is not in the project. A stage imports this first.
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


compiled: dict[Path, bytes] = {}  # the source that was compiled, by the path of its file


class _Source(SourceFileLoader):
    """Loads a module from its source alone: Python looks for bytecode where the source can be asked for its time."""

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> Any:  # type: ignore[override]
        """Compile a source, and keep it: a module may put another one in its file's place while it runs."""
        if isinstance(data, bytes):
            compiled[Path(path)] = data
        return super().source_to_code(data, path, _optimize=_optimize)

    def path_stats(self, path: str) -> NoReturn:
        raise OSError

    def set_data(self, path: str, data: object, *, _mode: int = 0) -> None:
        """Write no bytecode."""


# Of a module without source, the stage says that no digest has it (`imports.Guard`).
_find = FileFinder.path_hook((_Source, SOURCE_SUFFIXES), (SourcelessFileLoader, BYTECODE_SUFFIXES))


def _hook(path: str) -> Any:
    if not f"{path}/".startswith(_PACKAGES):
        raise ImportError(path)
    return _find(path)


sys.path_hooks.insert(0, _hook)
for _path in [path for path in sys.path_importer_cache if f"{path}/".startswith(_PACKAGES)]:
    del sys.path_importer_cache[_path]
if sys.pycache_prefix == os.devnull:
    # The ranks that Lightning starts begin in the same way.
    os.environ |= {"PYTHONPYCACHEPREFIX": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    sys.pycache_prefix = None
