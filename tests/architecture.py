"""The import graph of the project, read from the source: what a stage runs, and who imports whom."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("rfdetr_core", "stages")
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGES = list(PIPELINE)  # in the order in which they run
# Loaded by name: observers by train, proven by tests to leave the results alone, and the check of all of params.yaml by
# validate, which stops it or changes nothing.
NO_DEPENDENCY = ("rfdetr_core/observers/", "rfdetr_core/config/")


def module_files() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            relative = path.relative_to(ROOT)
            parts = relative.parts[:-1] if path.name == "__init__.py" else (*relative.parts[:-1], path.stem)
            modules[".".join(parts)] = path
    return modules


def imports(module: str, modules: dict[str, Path]) -> list[str]:
    """The project's modules that a module imports itself, also inside functions, but not for type checking only."""
    names: list[str] = []
    for node in _runtime_nodes(ast.parse(modules[module].read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module} uses a relative import")
    return [name for name in names if name in modules]


def source_files(folder: Path) -> set[Path]:
    """What a folder of code holds: modules, and the templates and scripts that packages read."""
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def closure(module: str) -> set[str]:
    """Files (relative, posix) of all project modules that run when `module` is imported and used, and of their data."""
    modules = module_files()
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += imports(name, modules)
        waiting += [parent for parent in (name.rpartition(".")[0],) if parent in modules]
    return {file.relative_to(ROOT).as_posix() for name in found for file in (modules[name], *_data(modules[name]))}


def _data(file: Path) -> set[Path]:
    """The files of a package that are no modules."""
    if file.name != "__init__.py":
        return set()
    return {path for path in source_files(file.parent) if path.parent == file.parent and path.suffix != ".py"}


def _runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        children = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = list(node.orelse)
        waiting += children
    return nodes


def code_deps(stage: str) -> list[str]:
    """The closure of a stage as dvc.yaml lists it: a folder where all of its modules are needed, files elsewhere."""
    needed = {file for file in closure(f"stages.{stage}") if not file.startswith(NO_DEPENDENCY)}
    return sorted(_folded("rfdetr_core", needed) + [file for file in needed if file.startswith("stages/")])


def _folded(folder: str, needed: set[str]) -> list[str]:
    inside = {path.relative_to(ROOT).as_posix() for path in source_files(ROOT / folder)}
    if inside <= needed:
        return [folder]
    deps = [file for file in inside & needed if Path(file).parent.as_posix() == folder]
    for child in sorted(path for path in (ROOT / folder).iterdir() if path.is_dir()):
        if any(file.startswith(f"{folder}/{child.name}/") for file in needed):
            deps += _folded(f"{folder}/{child.name}", needed)
    return deps


def with_code_deps(pipeline: str) -> str:
    """The text of dvc.yaml with the code that each stage depends on, in place of what stands there."""
    lines: list[str] = []
    stage, written = "", False
    for line in pipeline.splitlines():
        if named := re.fullmatch(r"  (\w+):", line):
            stage, written = named[1], False
        if not line.startswith(("      - rfdetr_core", "      - stages/")):
            lines.append(line)
        elif not written:
            lines += [f"      - {dep}" for dep in code_deps(stage)]
            written = True
    return "\n".join(lines) + "\n"


if __name__ == "__main__":  # python -m tests.architecture: write the code dependencies of dvc.yaml anew
    (ROOT / "dvc.yaml").write_text(with_code_deps((ROOT / "dvc.yaml").read_text()))
