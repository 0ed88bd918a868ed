"""The states of a stage's inputs, to compare the start of the stage with its end.

DVC records the inputs as they are when a stage ends. So an input that changes while the stage runs would be recorded
with a result that was made from the old one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import PARAMS_FILE, load_yaml, read_section

_PIPELINE = Path("dvc.yaml")
_DATA = "${data.dir}"
_IGNORED = ("Thumbs.db", "__pycache__")  # ignored, as hidden files are: DVC ignores them, too


def states_of(stage: str) -> dict[str, str]:
    """The state of each file and each param that a stage of dvc.yaml depends on, by name. Missing files have no entry.

    - A file: its SHA-256.
    - A file of the dataset: its size and time. Its digest is compared with the manifest when the image is read.
    - A param: the digest of its value. A change in another section of params.yaml changes no state.

    Raises:
        UserError: dvc.yaml or params.yaml cannot be read.
    """
    entry = load_yaml(_PIPELINE)["stages"].get(stage) or {}
    states = dict(_params(entry.get("params") or ()))
    for name in map(str, entry.get("deps") or ()):
        dep = Path(read_section(DataConfig, "data").dir if name == _DATA else name)
        for path in _files(dep):
            try:
                states[str(path)] = _size_and_time(path) if name == _DATA else files.sha256_file(path)
            except FileNotFoundError:
                continue
    return states


def _params(specs: Any) -> Iterator[tuple[str, str]]:
    """Yield the name and digest of each param.

    specs: the `params` of a stage. Each is a key of params.yaml, or a mapping from a file to its keys.
    """
    for param in specs:
        for file, keys in param.items() if isinstance(param, Mapping) else ((str(PARAMS_FILE), [param]),):
            content = load_yaml(Path(file)) if Path(file).suffix in (".yaml", ".yml") and Path(file).is_file() else None
            for key in keys or ():
                value = content
                for part in str(key).split("."):
                    value = value.get(part) if isinstance(value, Mapping) else None
                yield f"{key} of {file}", files.sha256_bytes(repr(value).encode())


def _files(dep: Path) -> Iterator[Path]:
    if dep.is_file():
        yield dep
    for folder, folders, names in os.walk(dep):
        folders[:] = [name for name in folders if name not in _IGNORED and not name.startswith(".")]
        visible = (name for name in names if name not in _IGNORED and not name.startswith("."))
        yield from (path for path in (Path(folder) / name for name in visible) if path.is_file())


def _size_and_time(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} bytes, changed at {status.st_mtime_ns}"
