"""Rules of design and style that a test can check."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from rfdetr_core.base.code import BY_NAME, ROOT
from tests.architecture import CODE, PIPELINE, STAGES

TIERS = [
    {"base"},
    {"ops"},
    {"ingest", "model", "data", "metrics"},
    {"loss", "checkpoint"},
    {"training", "inference", "lineage"},
    {"evaluation", "selection", "observers", "audit"},
    {"report", "export"},
    {"config"},
    {"verification"},
    {"documents"},
    {"commands"},
    {"api", "cli"},
    {"__main__"},
]


def part_of(module: str) -> str | None:
    """The package or file of the core that a module belongs to."""
    parts = module.split(".")
    return parts[1] if parts[0] == "rfdetr_core" and len(parts) > 1 else None


def tier(part: str) -> int:
    return next(number for number, names in enumerate(TIERS) if part in names)


@pytest.mark.parametrize("stage", CODE.stages)
def test_a_stage_depends_on_its_digests_and_on_no_other_code(stage: str) -> None:
    code = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith(("digests", "rfdetr_core", "stages"))]
    assert code == [f"digests/{stage}.json"]


def test_the_stage_code_writes_the_digests_of_every_other_stage_from_all_code() -> None:
    assert STAGES[0] == "code"
    assert PIPELINE["code"]["deps"] == ["rfdetr_core", "stages"]
    outs = [*({path: flags} for out in PIPELINE["code"]["outs"] for path, flags in out.items())]
    in_git = [{f"digests/{stage}.json": {"cache": False}} for stage in STAGES[1:]]
    assert sorted(map(str, outs)) == sorted(map(str, in_git))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_the_core_when_its_code_has_been_compared(stage: str) -> None:
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    outside = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
    early = imported(inner for node in outside for inner in ast.walk(node)) - sys.stdlib_module_names
    assert early == ({"rfdetr_core", "stages"} if stage == "code" else {"stages"})


def test_no_stage_depends_on_modules_that_are_loaded_by_name() -> None:
    assert BY_NAME.keys() | set(BY_NAME.values()) <= CODE.modules.keys()
    for stage in CODE.stages:
        assert not CODE.closure(f"stages.{stage}") & set(BY_NAME.values())


def test_every_stage_has_its_file() -> None:
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_run_as_a_module(stage: str) -> None:
    assert PIPELINE[stage]["cmd"] == f"exec python -B -X pycache_prefix=/dev/null -m stages.{stage}"


def test_stages_that_compute_numbers_depend_on_the_numeric_lock() -> None:
    with_lock = {stage for stage in STAGES if "requirements/numeric.lock" in PIPELINE[stage]["deps"]}
    assert {"train", "evaluate", "report", "export"} <= with_lock


def test_training_does_not_see_reports_validation_lineage_or_interfaces() -> None:
    packages = ("ingest", "inference", "evaluation", "report", "lineage", "audit", "verification", "config")
    outside = (*(f"{package}/" for package in (*packages, "observers", "commands")), "api/", "cli.py", "__main__.py")
    files = CODE.digests("stages.train")
    assert not [file for file in files if file.removeprefix("rfdetr_core/").startswith(outside)]


def test_the_packages_of_pages_are_a_dependency_of_the_stages_that_write_one() -> None:
    with_lock = {stage for stage in STAGES if "requirements/report.lock" in PIPELINE[stage]["deps"]}
    assert with_lock == {stage for stage in CODE.stages if "rfdetr_core.report.page" in CODE.closure(f"stages.{stage}")}
    assert "validate" in with_lock
    assert not {"convert", "train", "select_best", "strip", "evaluate"} & with_lock


def test_only_the_stage_export_depends_on_code_and_packages_of_exported_files() -> None:
    with_lock = {stage for stage in STAGES if "requirements/export.lock" in PIPELINE[stage]["deps"]}
    assert with_lock == {"export"}
    users = {stage for stage in CODE.stages if "rfdetr_core.export.run" in CODE.closure(f"stages.{stage}")}
    assert users == {"export"}
    for stage in set(CODE.stages) - {"export"}:
        used = {module for module in CODE.closure(f"stages.{stage}") if module.startswith("rfdetr_core.export.")}
        assert used <= {"rfdetr_core.export.config"}, stage


def test_no_stage_reads_what_export_writes() -> None:
    written = [path for out in PIPELINE["export"]["outs"] for path in ([out] if isinstance(out, str) else out)]
    assert written == ["output/export", "output/export.json"]
    for stage, entry in PIPELINE.items():
        assert not [dep for dep in entry["deps"] if any(f"{out}/".startswith(f"{dep}/") for out in written)], stage
        assert "export" not in entry.get("params", []) or stage == "export"


def test_validation_does_not_depend_on_the_pages_of_other_stages() -> None:
    seen = {path.split("/")[1] for path in CODE.digests("stages.validate") if path.startswith("rfdetr_core/")}
    assert "report" in seen
    assert not {"evaluation", "metrics", "model", "training"} & seen
    pages = {path.split("/")[2] for path in CODE.digests("stages.validate") if path.startswith("rfdetr_core/report/")}
    folders = {path.parent.name for path in (ROOT / "rfdetr_core" / "report").glob("*/__init__.py")}
    assert pages & folders == {"dataset"}


def test_training_does_not_read_the_test_split() -> None:
    assert not [dep for dep in PIPELINE["train"]["deps"] if Path(dep).stem == "test"]


def test_arrows_go_down() -> None:
    upward = []
    for module in CODE.modules:
        part = part_of(module)
        if part is None:
            continue
        for imported in CODE.imports(module):
            other = part_of(imported)
            if other is not None and other != part and tier(other) >= tier(part) > 0:
                upward.append(f"{module} imports {imported}")
            if other is not None and tier(part) == 0 < tier(other):
                upward.append(f"{module} imports {imported}")
    assert not upward


def test_no_file_of_the_core_is_longer_than_400_lines() -> None:
    long = {module: n for module, path in CODE.modules.items() if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_stages_are_thin() -> None:
    thick = {
        stage: n for stage in STAGES if (n := len((ROOT / "stages" / f"{stage}.py").read_text().splitlines())) > 45
    }
    assert not thick


def test_git_is_always_run_with_the_settings_of_one_module() -> None:
    """Otherwise a graft, a filter or a variable of the clone could change an answer."""
    named = {module for module, path in CODE.modules.items() if '"git",' in path.read_text()}
    assert named == {"rfdetr_core.base.git"}


def test_files_are_read_only_by_functions_that_refuse_pipes_and_devices() -> None:
    """Files are read by functions over `files.open_regular`, except control groups of Linux in base/processes.py."""
    reading = []
    for module, path in CODE.modules.items():
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            owner = call.func.value if isinstance(call.func, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id in ("files", "os", "self", "Image", "zipfile"):
                continue
            nodes = (node for argument in call.args for node in ast.walk(argument))
            constants = (node.value for node in nodes if isinstance(node, ast.Constant))
            modes = [value for value in constants if isinstance(value, str)]
            read = name == "open" and not any(set(mode) & set("wax") for mode in modes)
            if read or (name in ("read_bytes", "read_text") and owner is not None):
                reading.append(module)
    # A download opens an address and writes to its file; its mode is not a constant.
    exempt = {"rfdetr_core.base.files", "rfdetr_core.base.processes", "rfdetr_core.checkpoint.download"}
    exempt |= {"rfdetr_core.inference.addresses"}
    assert set(reading) <= exempt, "read files by read_bytes and read_text of rfdetr_core/base/files.py"


def test_nothing_imports_upstream() -> None:
    users = [
        path.name
        for path in CODE.modules.values()
        if "import rfdetr\n" in path.read_text()
        or "from rfdetr " in path.read_text()
        or "from rfdetr." in path.read_text()
    ]
    assert not users


def test_tables_are_pandas_and_pandas_is_imported_only_where_they_are_made() -> None:
    paths = [path for folder in ("rfdetr_core", "stages", "ci", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    trees = {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}
    assert not [name for name, tree in trees.items() if "csv" in imported(ast.walk(tree))]
    # An analysis consists of tables, so its modules import pandas. They are imported only where an analysis is made.
    apart = tuple(f"rfdetr_core/evaluation/{name}.py" for name in ("analysis", "slices", "suspects"))
    apart += ("rfdetr_core/report/evaluation/",)
    early = [str(name) for name, tree in trees.items() if "pandas" in imported(tree.body)]
    assert not [name for name in early if not name.startswith(apart)]


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """The top-level names of the modules that these statements import."""
    names = set[str]()
    for node in nodes:
        names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        names |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
    return {name.partition(".")[0] for name in names}


def test_no_checkpoint_is_read_with_full_pickle() -> None:
    readers = [path.name for path in CODE.modules.values() if "weights_only=False" in path.read_text()]
    assert not readers
