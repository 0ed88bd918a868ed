"""Whether what Python imports is what a project's digests of code name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import FileLoader, MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ModuleSpec,
    PathFinder,
    SourcelessFileLoader,
)
from pathlib import Path
from types import ModuleType

from rfdetr_core.base.code import PACKAGES, Code, not_named, semantic_digest
from rfdetr_core.base.errors import UserError

# Before a source file Python takes an extension, and before both a package of the same name.
_PACKAGES = [f"/__init__{suffix}" for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)]
_BEFORE_SOURCE = (*EXTENSION_SUFFIXES, *_PACKAGES)
_OWN = ("rfdetr_core", "stages", "ci", "tests", "benchmarks")


class Guard(MetaPathFinder):
    """First in sys.meta_path, it stops a stage that imports code of the project which its digests do not have, or which
    was edited since they were computed. What BY_NAME has may be imported.
    """

    def __init__(self, code: Code, stage: str) -> None:
        self.stage, self.root, self.modules, self.refused = stage, code.root, code.modules, code.refused(stage)
        self.digests = {name: semantic_digest(code.modules[name]) for name in code.closure(f"stages.{stage}")}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing. UserError: the module is none of the stage's, or was edited since it was digested."""
        if fullname in self.refused:
            raise not_named(f"stage {self.stage}", fullname)
        if fullname in self.digests and semantic_digest(self.modules[fullname]) != self.digests[fullname]:
            raise UserError(f"{fullname} was edited while {self.stage} ran. Run: dvc repro")
        if fullname not in self.modules and (place := self._undigested(fullname, path)):
            raise UserError(
                f"stage {self.stage} imports {place}, which no digest of code has, so an edit there would rerun "
                "nothing. Move its source to rfdetr_core/."
            )
        return None

    def _undigested(self, fullname: str, path: Sequence[str] | None) -> str | None:
        """The file of a module of the project that is no source in its packages; None where it is another's module."""
        top = fullname.partition(".")[0]
        if top not in PACKAGES and ("." in fullname or top in sys.stdlib_module_names):
            return None
        spec = PathFinder.find_spec(fullname, [str(self.root)] if top == fullname else path)
        loader = spec.loader if spec else None
        if not isinstance(loader, SourcelessFileLoader if top in PACKAGES else FileLoader) or spec is None:
            return None
        return Path(spec.origin or fullname).relative_to(self.root).as_posix()


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
