"""Whether what a stage reads stayed as it was while the stage ran: DVC digests it before and after, and trusts both."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rfdetr_core.base import files
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import load_yaml, read_section

_PIPELINE = Path("dvc.yaml")
_SMALL = 1 << 26  # bytes: read twice without being noticed
_DATA = "${data.dir}"


def states_of(stage: str) -> dict[str, str]:
    """The state of each file that a stage of dvc.yaml depends on, by its path; of what is not there, none.

    It is the SHA-256 of a file. Of large files, and of those in a folder, such as the images of a dataset, it is what
    the file system says: their content is not read.

    Raises:
        UserError: dvc.yaml or params.yaml cannot be read.
    """
    entry = load_yaml(_PIPELINE)["stages"].get(stage) or {}
    found: dict[str, str] = {}
    for name in map(str, entry.get("deps") or ()):
        dep = Path(read_section(DataConfig, "data").dir if name == _DATA else name)
        found |= {str(dep): _state(dep)} if dep.is_file() else dict(_inside(dep))
    return found


def _state(path: Path) -> str:
    return files.sha256_file(path) if path.stat().st_size <= _SMALL else _times(path)


def _times(path: Path) -> str:
    """Size, inode, and the times when the content and the inode changed, which a touch cannot set back."""
    status = path.stat()
    return f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"


def _inside(folder: Path) -> Iterator[tuple[str, str]]:
    for where, _, names in os.walk(folder):
        for path in (Path(where) / name for name in names):
            if path.is_file():
                yield str(path), _times(path)
