"""What a stage depends on, digested when it begins and when it ends: DVC records what is there when it ends."""

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
_IGNORED = ("Thumbs.db", "__pycache__")  # with hidden files: what .dvcignore has, or a file manager leaves


def states_of(stage: str) -> dict[str, str]:
    """The state of each file and each param that a stage of dvc.yaml depends on, by name; of what is not there, none.

    Of a file it is the SHA-256. Of a file of the dataset, whose images are compared with the manifest when they are
    read, it is its size and time. Of a param it is the digest of its value: another section of params.yaml may change.

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
    """The digests of params: of keys of params.yaml, or of mappings from a file to its keys."""
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
