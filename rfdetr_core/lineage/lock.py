"""dvc.lock: what was run, with the MD5s of what it read and wrote. The one place that reads it."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml.resolver import implicit_resolvers

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import md5_bytes

LOCK = "dvc.lock"
_MOST_LEVELS = 10_000
_DEEP = re.compile(rb"(?:[-?][ \t]+){1000}|^ {10000}", re.M)


@dataclass(frozen=True)
class Entry:
    """A stage as it was run. deps, outs: the MD5 by path; of a folder it ends in .dir. files: all that is said of both
    (md5, hash, size, nfiles). raw: what DVC wrote."""

    cmd: str
    params: dict[str, dict[str, Any]]
    deps: dict[str, str]
    outs: dict[str, str]
    files: dict[str, dict[str, Any]]
    raw: dict[str, Any]

    @classmethod
    def of(cls, raw: dict[str, Any], folder: str = ".") -> Entry:
        """Read an entry, whose paths are below the folder in which the stage runs, as paths below the root."""
        deps, outs = (
            {path_from_root(folder, item["path"]): item for item in raw.get(kind) or ()} for kind in ("deps", "outs")
        )
        read, wrote = ({path: str(item.get("md5", "")) for path, item in items.items()} for items in (deps, outs))
        params = {path_from_root(folder, name): values for name, values in (raw.get("params") or {}).items()}
        return cls(command(raw["cmd"]), params, read, wrote, deps | outs, raw)


@dataclass(frozen=True)
class Lock:
    """One dvc.lock: its entries by the name of their stage."""

    stages: dict[str, Entry]

    @classmethod
    def read(cls, root: Path) -> Lock:
        """The dvc.lock of a project. Raises UserError where it is missing or unreadable."""
        try:
            return cls.parse(files.read_bytes(root / LOCK))
        except FileNotFoundError:
            raise UserError(f"{root / LOCK} does not exist: nothing was run yet. Run: dvc repro") from None
        except OSError as error:
            raise UserError(f"{root / LOCK} cannot be read: {error.strerror}. Restore it: git restore {LOCK}") from None

    @classmethod
    def parse(cls, content: bytes) -> Lock:
        """Read a dvc.lock. Raises UserError where it is none."""
        # The C parser calls itself for each level, and the end of the stack would end the process.
        if content.count(b"[") + content.count(b"{") > _MOST_LEVELS or _DEEP.search(content):
            raise UserError(f"{LOCK} is nested too deeply. Restore it: git restore {LOCK}")
        try:
            return cls(
                {name: Entry.of(raw_entry) for name, raw_entry in yaml.load(content, Loader=_Loader)["stages"].items()}
            )
        except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
            reason = type(error).__name__
            raise UserError(
                f"{LOCK} is not readable ({reason}). Run: git restore {LOCK}; or, if it is in no commit, remove it"
            ) from None

    def outs(self) -> Iterator[tuple[str, str, str]]:
        """Stage, path and MD5 of every out."""
        for name, entry in self.stages.items():
            yield from ((name, path, md5) for path, md5 in entry.outs.items())

    def out(self, path: str) -> str | None:
        """The MD5 of an out; None where no stage wrote it."""
        return next((md5 for _, out, md5 in self.outs() if out == path), None)

    def dep(self, stage: str, path: str) -> str | None:
        """The MD5 of what a stage read; None where it did not."""
        return self.stages[stage].deps.get(path) if stage in self.stages else None

    def params_of(self, stage: str) -> dict[str, Any]:
        """The values of params.yaml that a stage was run with."""
        return self.stages[stage].params.get("params.yaml", {}) if stage in self.stages else {}


def path_from_root(folder: str, path: str) -> str:
    """A path in a folder as one below the root."""
    return path if folder == "." or "://" in path else posixpath.normpath(posixpath.join(folder, path))


def command(value: Any) -> str:
    """The cmd of a stage, which may be a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def listing_md5(listing: dict[str, str]) -> str:
    """DVC's MD5 of a folder (dvc_data/hashfile/tree.py)."""
    rows = [{"md5": listing[path], "relpath": path} for path in sorted(listing)]
    return md5_bytes(json.dumps(rows, sort_keys=True).encode()) + ".dir"


# The C parser takes a tenth of the time of DVC's own; these are the words that are values in YAML 1.2, as DVC has it.
_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": {}})
for _versions, *_resolver in implicit_resolvers:
    if (1, 2) in _versions:
        _Loader.add_implicit_resolver(*_resolver)
_DECIMAL = "tag:yaml.org,2002:int"  # 010 is ten
_Loader.add_constructor(_DECIMAL, lambda _, node: int(node.value, 0 if node.value.lstrip("+-")[1:2] in "xob" else 10))
