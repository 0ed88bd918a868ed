from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from rfdetr_core.base.imports import shadows

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
def test_what_python_imports_in_place_of_a_recorded_module_is_found(project: Path, module: str, name: str) -> None:
    assert shadows(project) == []
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert imported(project, module) == name
    assert shadows(project) == [name]


@pytest.mark.parametrize(
    "name", ["rfdetr_core/ops/boxes/data.txt", "rfdetr_core/ops/boxes.pyc", "tools_of_mine.py", "torch/x"]
)
def test_what_python_does_not_import_in_its_place_is_none(project: Path, name: str) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert shadows(project) == []
