"""The rules of design and style that a machine can hold."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

from rfdetr_core.base.provenance import code_digests
from rfdetr_core.evaluation import evaluate
from rfdetr_core.lineage import compose
from rfdetr_core.training import record
from tests.architecture import (
    NO_DEPENDENCY,
    PIPELINE,
    ROOT,
    STAGES,
    closure,
    imports,
    module_files,
    source_files,
    with_code_deps,
)

TIERS = [
    {"base"},
    {"ops"},
    {"ingest", "model", "data", "metrics"},
    {"loss", "checkpoint", "export"},
    {"training", "inference", "lineage"},
    {"evaluation", "selection", "observers", "audit"},
    {"config"},
    {"verification"},
    {"api", "cli"},
    {"__main__"},
]


def part_of(module: str) -> str | None:
    """The package or file of the core that a module belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rfdetr_core" and len(parts) > 1 else None


def tier(part: str) -> int:
    return next(number for number, names in enumerate(TIERS) if part in names)


@pytest.mark.parametrize("stage", STAGES)
def test_deps_of_a_stage_are_its_import_closure(stage: str) -> None:
    declared: set[str] = set()
    for dep in PIPELINE[stage]["deps"]:
        path = ROOT / dep
        if dep.startswith(("rfdetr_core", "stages")):
            files = source_files(path) if path.is_dir() else {path}
            declared |= {file.relative_to(ROOT).as_posix() for file in files}
    needed = {file for file in closure(f"stages.{stage}") if not file.startswith(NO_DEPENDENCY)}
    assert declared == needed


def test_the_code_that_dvc_yaml_lists_is_what_its_command_writes() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    assert with_code_deps(text) == text, "python -m tests.architecture"


def test_every_stage_has_its_file() -> None:
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_run_as_a_module(stage: str) -> None:
    assert PIPELINE[stage]["cmd"] == f"exec python -m stages.{stage}"


def test_stages_that_compute_numbers_depend_on_the_numeric_lock() -> None:
    with_lock = {stage for stage in STAGES if "requirements/numeric.lock" in PIPELINE[stage]["deps"]}
    assert {"train", "evaluate"} <= with_lock


def test_training_does_not_see_reports_validation_lineage_or_interfaces() -> None:
    packages = ("ingest", "inference", "evaluation", "lineage", "audit", "verification", "config", "observers")
    outside = (*(f"{package}/" for package in packages), "api.py", "cli.py", "__main__.py")
    assert not [file for file in closure("stages.train") if file.removeprefix("rfdetr_core/").startswith(outside)]


def test_training_does_not_read_the_test_split() -> None:
    assert not [dep for dep in PIPELINE["train"]["deps"] if Path(dep).stem == "test"]


@pytest.mark.parametrize(
    ("stage", "code"), [("train", record.CODE), ("strip", compose.CODE), ("evaluate", evaluate.CODE)]
)
def test_the_code_that_a_result_names_is_what_its_stage_runs(stage: str, code: tuple[str, ...]) -> None:
    needed = {file for file in closure(f"stages.{stage}") if not file.startswith(NO_DEPENDENCY)}
    assert code_digests(code).keys() == needed


def test_arrows_go_down() -> None:
    modules = module_files()
    upward = []
    for module in modules:
        part = part_of(module)
        if part is None:
            continue
        for imported in imports(module, modules):
            other = part_of(imported)
            if other is not None and other != part and tier(other) >= tier(part) > 0:
                upward.append(f"{module} imports {imported}")
            if other is not None and tier(part) == 0 < tier(other):
                upward.append(f"{module} imports {imported}")
    assert not upward


def test_no_file_of_the_core_is_longer_than_400_lines() -> None:
    long = {module: n for module, path in module_files().items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_stages_are_thin() -> None:
    thick = {
        stage: n for stage in STAGES if (n := len((ROOT / "stages" / f"{stage}.py").read_text().splitlines())) > 45
    }
    assert not thick


def test_nothing_imports_upstream() -> None:
    users = [
        path.name
        for path in module_files().values()
        if "import rfdetr\n" in path.read_text()
        or "from rfdetr " in path.read_text()
        or "from rfdetr." in path.read_text()
    ]
    assert not users


def test_pandas_has_every_table_and_is_imported_only_where_one_is_made() -> None:
    paths = [path for folder in ("rfdetr_core", "stages", "ci", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}
    assert not [name for name, tree in trees.items() if "csv" in imported(ast.walk(tree))]
    assert not [name for name, tree in trees.items() if "pandas" in imported(tree.body)]


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The first parts of the modules that these statements import."""
    names = set[str]()
    for node in nodes:
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    return {name.partition(".")[0] for name in names}


def test_no_checkpoint_is_read_with_full_pickle() -> None:
    readers = [path.name for path in module_files().values() if "weights_only=False" in path.read_text()]
    assert not readers
