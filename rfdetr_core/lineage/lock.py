"""dvc.lock: what was run, with the MD5s of what it read and wrote. The one place that reads it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from ruamel.yaml.resolver import implicit_resolvers

from rfdetr_core.base.errors import UserError

LOCK = "dvc.lock"


@dataclass(frozen=True)
class Entry:
    """A stage as it was run. deps, outs: the MD5 by path; of a folder it ends in .dir. raw: all that DVC wrote."""

    cmd: str
    params: dict[str, dict[str, Any]]
    deps: dict[str, str]
    outs: dict[str, str]
    raw: dict[str, Any]

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Entry:
        """Read an entry as DVC wrote it."""
        deps, outs = (
            {str(one["path"]): str(one.get("md5", "")) for one in raw.get(kind) or ()} for kind in ("deps", "outs")
        )
        return cls(command(raw["cmd"]), raw.get("params") or {}, deps, outs, raw)

    def described(self, kind: str) -> dict[str, dict[str, Any]]:
        """All that is said of the "deps" or "outs", by path: md5, hash, size, nfiles."""
        return {str(one["path"]): one for one in self.raw.get(kind) or ()}

    def placed(self, folder: str) -> Entry:
        """With paths below the root, where the entry has them below the folder in which the stage runs."""
        files = {
            kind: [one | {"path": below(folder, path)} for path, one in self.described(kind).items()]
            for kind in ("deps", "outs")
        }
        return Entry.of(self.raw | files | {"params": {below(folder, name): one for name, one in self.params.items()}})


@dataclass(frozen=True)
class Lock:
    """One dvc.lock: its entries by the name of their stage."""

    stages: dict[str, Entry]

    @classmethod
    def read(cls, root: Path) -> Lock:
        """The dvc.lock of a project. Raises UserError where it is missing or unreadable."""
        try:
            return cls.parse((root / LOCK).read_bytes())
        except FileNotFoundError:
            raise UserError(f"{root / LOCK} does not exist: nothing was run yet. Run: dvc repro") from None

    @classmethod
    def parse(cls, content: bytes) -> Lock:
        """Read a dvc.lock. Raises UserError where it is none."""
        try:
            return cls({name: Entry.of(one) for name, one in yaml.load(content, Loader=_Loader)["stages"].items()})
        except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(
                f"{LOCK} is not readable ({type(error).__name__}). Restore it: git restore {LOCK}"
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


def below(folder: str, path: str) -> str:
    """A path in a folder as one below the root."""
    return path if folder == "." or "://" in path else posixpath.normpath(posixpath.join(folder, path))


def command(value: Any) -> str:
    """The cmd of a stage, which may be a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The C parser, a tenth of the time of DVC's own; it takes words for values as YAML 1.2 has it, as DVC does."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def integer(self, node: Any) -> int:
        """010 is ten."""
        digits = node.value
        return int(digits, 0 if digits.lstrip("+-")[:2] in ("0x", "0o", "0b") else 10)


for _versions, _tag, _pattern, _first in implicit_resolvers:
    if (1, 2) in _versions:
        _Loader.add_implicit_resolver(_tag, _pattern, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.integer)
