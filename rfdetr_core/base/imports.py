"""Whether what Python imports is what a project's digests of code name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from rfdetr_core.base.code import Code, not_named, semantic_digest
from rfdetr_core.base.errors import UserError

# Before a source file Python takes an extension, and before both a package of the same name.
_PACKAGES = [f"/__init__{suffix}" for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)]
_BEFORE_SOURCE = (*EXTENSION_SUFFIXES, *_PACKAGES)
_OWN = ("rfdetr_core", "stages", "ci", "tests", "benchmarks")


class Guard(MetaPathFinder):
    """Put first in sys.meta_path, it lets a stage import those modules of the project alone that its digests name, as
    they were digested; how they are imported makes no difference.
    """

    def __init__(self, code: Code, stage: str) -> None:
        self.stage, self.modules, self.refused = stage, code.modules, code.refused(stage)
        self.digests = {name: semantic_digest(code.modules[name]) for name in code.closure(f"stages.{stage}")}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing. UserError: the module is none of the stage's, or was edited since it was digested."""
        if fullname in self.refused:
            raise not_named(f"stage {self.stage}", fullname)
        if fullname in self.digests and semantic_digest(self.modules[fullname]) != self.digests[fullname]:
            raise UserError(f"{fullname} was edited while {self.stage} ran. Run: dvc repro")
        return None


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
