"""Checks that each module of the project that a stage imports has a digest in digests/<stage>.json."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import FileLoader, MetaPathFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ModuleSpec,
    PathFinder,
    SourcelessFileLoader,
)
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from rfdetr_core.base import git
from rfdetr_core.base.code import PACKAGES, ROOT, Code, not_in_by_name, semantic_digest
from rfdetr_core.base.errors import UserError, listed

# Python prefers an extension to a source file, and a package to both, if they have the same name.
_PACKAGES = [f"/__init__{suffix}" for suffix in (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)]
_BEFORE_SOURCE = (*EXTENSION_SUFFIXES, *_PACKAGES)
_INSTALLED = ("site-packages", "dist-packages")
_OWN = ("rfdetr_core", "stages", "ci", "tests", "benchmarks")


class Guard(MetaPathFinder):
    """The first entry of sys.meta_path while a stage runs.

    The guard stops the stage if it imports a module of the project for which the stage has no digest, or a module that
    was edited after its digest was computed. The modules in BY_NAME may be imported.
    """

    def __init__(self, code: Code, stage: str) -> None:
        self.stage, self.root, self.modules, self.forbidden = stage, code.root, code.modules, code.forbidden(stage)
        self.installed = tuple(f"{folder}/" for folder in sys.path if folder.endswith(_INSTALLED))
        self.digests = {name: semantic_digest(code.modules[name]) for name in code.closure(*code.starts(stage))}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None, so that Python asks its other finders.

        Args:
            fullname: The dotted name of the module.
            path: The folders of its package; None for a top-level module.
            target: Unused; importlib passes it.

        Raises:
            UserError: the stage may not import the module, or it was edited after its digest was computed.
        """
        if fullname in self.forbidden:
            raise not_in_by_name(f"stage {self.stage}", fullname)
        if fullname in self.digests and semantic_digest(self.modules[fullname]) != self.digests[fullname]:
            raise UserError(f"{fullname} was edited while {self.stage} ran. Run: dvc repro")
        if fullname not in self.modules and (place := self._file_without_digest(fullname, path)):
            raise UserError(
                f"stage {self.stage} imports {place}, but no code digest covers this file. So an edit of it would "
                "rerun nothing. Move its source to rfdetr_core/."
            )
        return None

    def _project_folders(self, places: Sequence[str] | None) -> list[str]:
        """The folders among `places` that belong to the project."""
        # Importing torch calls this some thousand times. The comparison of prefixes is fast and removes most folders.
        fresh = [folder for folder in places or () if not folder.startswith(self.installed)]
        return [folder for folder in fresh if in_project(folder, self.root)]

    def _file_without_digest(self, fullname: str, path: Sequence[str] | None) -> str | None:
        """The project file without a digest that this name would import. None: the name imports no such file.

        Only the source files of PACKAGES have digests.
        """
        top = fullname.partition(".")[0]
        places = [str(self.root)] if top == fullname else self._project_folders(path)
        if not places or (top == fullname and top in sys.stdlib_module_names):
            return None
        spec = PathFinder.find_spec(fullname, places)
        loader = spec.loader if spec else None
        if not isinstance(loader, SourcelessFileLoader if top in PACKAGES else FileLoader) or spec is None:
            return None
        return Path(spec.origin or fullname).relative_to(self.root).as_posix()


def tracked_bytecode(root: Path) -> list[str]:
    """The compiled modules that git tracks in a project. Python may run them instead of the source next to them.

    Anything named __pycache__ counts, because it may be a link.
    """
    kinds = [f"*{suffix}" for suffix in (*BYTECODE_SUFFIXES, ".pyo")]
    kinds += [f":(glob)**/__pycache__{end}" for end in ("", "/**")]
    names = git.answer(root, "ls-files", "-z", "--", *kinds)
    return sorted(set((names or "").split("\0")) - {""})


def refuse_bytecode(root: Path) -> None:
    """Raise a UserError if git tracks compiled modules in a project."""
    if modules := tracked_bytecode(root):
        raise UserError(
            f"git tracks compiled modules: {listed(modules)}. Python may run them instead of the source next to them. "
            "Remove them: git rm -r --cached PATH"
        )


def in_project(place: str | Path, root: Path = ROOT) -> bool:
    """Whether a file or folder is below a project's root and not in a folder of installed packages.

    Both its path and its path with resolved links are tried: the folder of a dataset may be a link.
    """
    return any(
        is_below(path, root) and not any(is_below(path, folder) for folder in sys.path if folder.endswith(_INSTALLED))
        for path in (str(Path(place).absolute()), os.path.realpath(place))
    )


def is_below(path: str, folder: str | Path) -> bool:
    """Whether an absolute path is in a folder, or is the folder."""
    return f"{path}/".startswith((f"{Path(folder).absolute()}/", f"{os.path.realpath(folder)}/"))


def check_class(name: str) -> None:
    """Check from which file a class package.module.Class would be imported. Nothing is imported.

    Raises:
        UserError: there is no such module, or it is a file of the project that no digest of code has, such as a file in
            a dataset.
    """
    module = name.rpartition(".")[0]
    if module in Code().modules:
        return
    if module.partition(".")[0] in PACKAGES:
        raise UserError(f"there is no module {module} in {ROOT}. Correct its name.")
    for part_name, spec in _specs(module):
        if spec is None:
            raise UserError(f"there is no module {part_name}. Install its package, or move it to rfdetr_core/.")
        places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
        if project_file := next((path for path in places if in_project(path)), None):
            raise UserError(
                f"{part_name} is {project_file}, but no code digest covers this file. So an edit of it would rerun "
                "nothing. Move the module to rfdetr_core/, or use a class of an installed package."
            )


def module_file(module: str) -> Path | None:
    """The file of an installed module; None if there is none. The module is not imported."""
    spec = next((candidate for name, candidate in _specs(module) if name == module), None)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _specs(module: str) -> Iterator[tuple[str, ModuleSpec | None]]:
    """Yield name and spec of a module's packages and of the module. Stops after the first that is not found (None)."""
    parts, places = module.split("."), list[str]()
    for end in range(1, len(parts) + 1):
        # find_spec() also asks the finders of editable installs. It is used only for the top-level package: to find a
        # submodule it would import, and so run, the package.
        name = ".".join(parts[:end])
        spec = PathFinder.find_spec(name, places) if end > 1 else find_spec(name)
        yield name, spec
        if spec is None:
            return
        places = list(spec.submodule_search_locations or ())


def shadowing_files(root: Path) -> list[str]:
    """Files below a project's root that Python would import instead of a module of the project or of a package.

    The root is first in sys.path. The digests of the source files and the list of packages do not show such files.
    """
    sources = (path for part in _OWN for path in (root / part).rglob("*.py"))
    candidates = (Path(f"{path.with_suffix('')}{end}") for path in sources for end in _BEFORE_SOURCE)
    files = [path for path in candidates if path.is_file()]
    other_folders = [folder for folder in sys.path if Path(folder).resolve() != root.resolve()]
    for end in (*_BEFORE_SOURCE, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES):
        for path in root.glob(f"*{end}"):
            name = path.relative_to(root).parts[0].partition(".")[0]
            if name not in _OWN and (name in sys.stdlib_module_names or PathFinder.find_spec(name, other_folders)):
                files.append(path)
    return sorted({path.relative_to(root).as_posix() for path in files})
