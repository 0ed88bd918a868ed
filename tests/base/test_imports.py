from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch

from rfdetr_core.base.code import Code
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import Guard, check_class, module_file, shadowing_files, tracked_bytecode

WHERE = "import importlib.util as u, sys; print(u.find_spec(sys.argv[1]).origin)"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("rfdetr_core/__init__.py", "rfdetr_core/ops/boxes.py", "stages/__init__.py", "tests/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def imported(project: Path, module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WHERE, module], cwd=project, capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip()).relative_to(project).as_posix()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("rfdetr_core.ops.boxes", "rfdetr_core/ops/boxes/__init__.py"),
        ("rfdetr_core.ops.boxes", "rfdetr_core/ops/boxes/__init__.pyc"),
        ("rfdetr_core.ops.boxes", f"rfdetr_core/ops/boxes{EXTENSION_SUFFIXES[0]}"),
        ("rfdetr_core", f"rfdetr_core/__init__{EXTENSION_SUFFIXES[-1]}"),
        ("torch", "torch.py"),
        ("pycocotools", "pycocotools/__init__.py"),
        ("wave", "wave.py"),
    ],
)
def test_a_file_that_python_imports_instead_of_a_recorded_module_is_found(
    project: Path, module: str, name: str
) -> None:
    assert shadowing_files(project) == []
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert imported(project, module) == name
    assert shadowing_files(project) == [name]


@pytest.mark.parametrize(
    "name", ["rfdetr_core/ops/boxes/data.txt", "rfdetr_core/ops/boxes.pyc", "tools_of_mine.py", "torch/x"]
)
def test_a_file_that_python_does_not_import_instead_is_not_reported(project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert shadowing_files(project) == []


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a folder of installed packages; importing it raises an error."""
    place = tmp_path / "site-packages"
    (place / "tools_of_others" / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py", "inner/optim.py"):
        (place / "tools_of_others" / name).write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(place))
    return place


def test_a_class_comes_from_an_installed_package_or_from_the_projects_own_code(installed: Path) -> None:
    for name in ("torch.optim.RAdam", "tools_of_others.inner.optim.A", "rfdetr_core.training.module.TrainingModule"):
        check_class(name)
    assert module_file("tools_of_others.inner.optim") == installed / "tools_of_others" / "inner" / "optim.py"
    for name in ("tests.small.A", "ci.A", "benchmarks.cuda.kit.A"):
        with pytest.raises(UserError, match="no code digest covers"):
            check_class(name)
    for name in ("no_such_package.A", "tools_of_others.other.A", "rfdetr_core.no_such_module.A"):
        with pytest.raises(UserError, match="there is no module"):
            check_class(name)


@pytest.mark.parametrize("link", [False, True])
def test_nothing_is_imported_from_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    project, data = tmp_path / "project", tmp_path / ("elsewhere" if link else "project/data")
    for name in ("rfdetr_core/__init__.py", "stages/__init__.py", "stages/train.py"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    (data / "images").mkdir(parents=True)
    (data / "images" / "optim.py").write_text("raise AssertionError('imported')")
    if link:
        (project / "data").symlink_to(data)
    monkeypatch.syspath_prepend(str(project))
    monkeypatch.setattr("rfdetr_core.base.imports.in_project.__defaults__", (project,))
    with pytest.raises(UserError, match="no code digest covers"):
        check_class("data.images.optim.A")
    guard = Guard(Code(project), "train")
    with pytest.raises(UserError, match=r"stage train imports data/images/optim\.py"):
        guard.find_spec("data.images.optim", [str(project / "data" / "images")])
    assert guard.find_spec("torch.optim.radam", [str(Path(torch.optim.__file__).parent)]) is None


def test_bytecode_that_git_has_is_found_whatever_it_looks_like(project: Path) -> None:
    elsewhere = project.parent / "elsewhere"
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".gitignore").write_text("__pycache__/\n*.pyc\n")
    (project / "rfdetr_core" / "__pycache__").mkdir()
    (project / "stages" / "__pycache__").symlink_to(elsewhere)
    places = ("rfdetr_core/__pycache__/x.cpython-311.pyc", "rfdetr_core/__pycache__/note.txt", "odd.pyc", "a\nb.pyo")
    for name in places:
        (project / name).touch()
    assert tracked_bytecode(project) == []
    subprocess.run(["git", "add", "-f", "."], cwd=project, check=True)
    assert set(tracked_bytecode(project)) == {*places, "stages/__pycache__"}
