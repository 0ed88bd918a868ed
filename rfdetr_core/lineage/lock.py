"""Reading dvc.lock: each stage as it was run, with the MD5s of its inputs and outputs. Only this module parses it."""

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
    """A stage as it was run.

    Attributes:
        cmd: The command.
        params: Values by params file.
        deps: path -> MD5 of each file or folder that the stage read. The MD5 of a folder ends in .dir.
        outs: The same for what it wrote.
        files: The full entries of deps and outs (md5, hash, size, nfiles), by path.
        raw: The stage's entry as DVC wrote it.
    """

    cmd: str
    params: dict[str, dict[str, Any]]
    deps: dict[str, str]
    outs: dict[str, str]
    files: dict[str, dict[str, Any]]
    raw: dict[str, Any]

    @classmethod
    def of(cls, raw: dict[str, Any], folder: str = ".") -> Entry:
        """Read an entry of dvc.lock.

        Args:
            raw: The entry. Its paths start at the folder in which the stage runs.
            folder: That folder, from the root. The paths of the result start at the root.
        """
        deps, outs = (
            {path_from_root(folder, item["path"]): item for item in raw.get(kind) or ()} for kind in ("deps", "outs")
        )
        read, wrote = ({path: str(item.get("md5", "")) for path, item in items.items()} for items in (deps, outs))
        params = {path_from_root(folder, name): values for name, values in (raw.get("params") or {}).items()}
        return cls(command(raw["cmd"]), params, read, wrote, deps | outs, raw)


@dataclass(frozen=True)
class Lock:
    """The content of a dvc.lock: an entry for each stage, by its name."""

    stages: dict[str, Entry]

    @classmethod
    def read(cls, root: Path) -> Lock:
        """Read the dvc.lock of a project.

        Raises:
            UserError: It is missing or unreadable.
        """
        try:
            return cls.parse(files.read_bytes(root / LOCK))
        except FileNotFoundError:
            raise UserError(f"{root / LOCK} does not exist, so no stage was run yet. Run: dvc repro") from None
        except OSError as error:
            raise UserError(f"{root / LOCK} cannot be read: {error.strerror}. Restore it: git restore {LOCK}") from None

    @classmethod
    def parse(cls, content: bytes) -> Lock:
        """Parse a dvc.lock.

        Raises:
            UserError: The content is not a dvc.lock.
        """
        # The C parser calls itself for each level of nesting. Too many levels would overflow the stack.
        if content.count(b"[") + content.count(b"{") > _MOST_LEVELS or _DEEP.search(content):
            raise UserError(f"{LOCK} is nested too deeply. Restore it: git restore {LOCK}")
        try:
            return cls(
                {name: Entry.of(raw_entry) for name, raw_entry in yaml.load(content, Loader=_Loader)["stages"].items()}
            )
        except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError, RecursionError) as error:
            reason = type(error).__name__
            raise UserError(
                f"{LOCK} is not readable ({reason}). Run: git restore {LOCK}. If it is in no commit, remove it"
            ) from None

    def outs(self) -> Iterator[tuple[str, str, str]]:
        """Every out: stage, path and MD5."""
        for name, entry in self.stages.items():
            yield from ((name, path, md5) for path, md5 in entry.outs.items())

    def out(self, path: str) -> str | None:
        """The MD5 of an out; None if no stage wrote it."""
        return next((md5 for _, out, md5 in self.outs() if out == path), None)

    def dep(self, stage: str, path: str) -> str | None:
        """The MD5 of a dependency of a stage; None if the stage has no such dependency."""
        return self.stages[stage].deps.get(path) if stage in self.stages else None

    def params_of(self, stage: str) -> dict[str, Any]:
        """The params that a stage was run with, as in params.yaml."""
        return self.stages[stage].params.get("params.yaml", {}) if stage in self.stages else {}


def path_from_root(folder: str, path: str) -> str:
    """A path in a folder, as a path from the root. URLs stay as they are."""
    return path if folder == "." or "://" in path else posixpath.normpath(posixpath.join(folder, path))


def command(value: Any) -> str:
    """The cmd of a stage as one text; dvc.lock may have a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def listing_md5(listing: dict[str, str]) -> str:
    """DVC's MD5 of a folder with this listing (see dvc_data/hashfile/tree.py).

    Args:
        listing: The MD5 of each file, by its path in the folder.
    """
    rows = [{"md5": listing[path], "relpath": path} for path in sorted(listing)]
    return md5_bytes(json.dumps(rows, sort_keys=True).encode()) + ".dir"


# The C parser is ten times as fast as DVC's. Like DVC, it must follow YAML 1.2, where `no` is a text.
_Loader: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": {}})
for _versions, *_resolver in implicit_resolvers:
    if (1, 2) in _versions:
        _Loader.add_implicit_resolver(*_resolver)
_DECIMAL = "tag:yaml.org,2002:int"  # in YAML 1.2, 010 is the number ten
_Loader.add_constructor(_DECIMAL, lambda _, node: int(node.value, 0 if node.value.lstrip("+-")[1:2] in "xob" else 10))
