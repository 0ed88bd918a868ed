from __future__ import annotations

import os
import py_compile
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from rfdetr_core.base import environment, files
from rfdetr_core.base.code import ROOT


def test_settings_are_only_the_variables_that_can_change_results(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.settings()
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the record has the threads that torch uses
    monkeypatch.setenv("HOME", "/elsewhere")
    assert environment.settings() == before | {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "MKL_CBWR": "COMPATIBLE"}
    assert environment.variables()["OMP_NUM_THREADS"] == "1"
    assert "HOME" not in environment.variables()


def test_secrets_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HUB_TOKEN", "hush")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "hush")
    assert "hush" not in environment.variables().values()


def test_the_processor_is_the_one_that_the_system_names() -> None:
    (line,) = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    assert environment.processor().startswith(line.split(":", 1)[1].strip())


class Installed:
    """A package in a folder site-packages, as pip installs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = folder / "numpy-1.0.dist-info"
        described.mkdir(parents=True)
        (folder / "numpy").mkdir()
        (folder / "numpy" / "core.py").write_text("one = 1\n")
        (described / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0\n")
        lines = [self.line(path) for path in (folder / "numpy" / "core.py", described / "METADATA")]
        (described / "RECORD").write_text("\n".join([*lines, "numpy-1.0.dist-info/RECORD,,"]) + "\n")
        self.package = metadata.Distribution.at(described)

    def line(self, path: Path) -> str:
        return f"{path.relative_to(self.folder)},sha256={environment._digest(path)},{path.stat().st_size}"


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_the_digest_of_a_file_is_the_one_in_the_list_that_pip_writes() -> None:
    package = metadata.distribution("numpy")
    entry = next(entry for entry in package.files or () if entry.name == "__init__.py" and entry.hash is not None)
    assert environment._digest(Path(str(entry.locate()))) == (entry.hash and entry.hash.value)


def test_an_unchanged_package_has_no_edited_files(installed: Installed) -> None:
    for deep in (False, True):
        assert list(environment._changed(installed.package, deep=deep)) == []


@pytest.mark.parametrize(("text", "later", "shallow"), [
    ("one = 11\n", False, True), ("one = 2\n", True, True), ("one = 2\n", False, False),
], ids=["another size", "equal size, newer", "equal size, time set back"])  # fmt: skip
def test_an_edited_file_of_a_package_is_found_and_only_deep_finds_one_with_an_old_time(
    installed: Installed, text: str, later: bool, shallow: bool
) -> None:
    path = installed.folder / "numpy" / "core.py"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns + (3600 * 10**9 if later else 0)
    path.write_text(text)
    os.utime(path, ns=times)
    assert list(environment._changed(installed.package, deep=False)) == ["numpy/core.py"] * shallow
    assert list(environment._changed(installed.package, deep=True)) == ["numpy/core.py"]


def test_a_module_with_another_version_than_its_metadata_is_found(installed: Installed) -> None:
    import numpy as np

    assert list(environment._wrong_version(installed.package)) == [
        f"version {np.__version__}, but its metadata says 1.0"
    ]
    assert list(environment._wrong_version(metadata.distribution("numpy"))) == []


def test_code_that_python_runs_at_its_start_is_named_unless_a_package_installed_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    code = (
        "import json; from rfdetr_core.base.environment import *; print(json.dumps(unexpected_startup(startup_code())))"
    )
    run = {"capture_output": True, "text": True, "check": True}
    plain = subprocess.run([sys.executable, "-c", code], cwd=ROOT, **run).stdout  # type: ignore[call-overload]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    custom = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, **run).stdout  # type: ignore[call-overload]
    assert files.parse_json(plain.encode()) == []
    assert files.parse_json(custom.encode()) == [str(tmp_path / "sitecustomize.py")]


def test_deep_finds_a_module_added_to_a_package_and_a_compiled_one_that_differs_from_its_source(
    installed: Installed,
) -> None:
    source = installed.folder / "numpy" / "core.py"
    compiled = Path(py_compile.compile(str(source), doraise=True) or "")
    assert list(environment._changed(installed.package, deep=True)) == []
    other = installed.folder / "other.py"
    other.write_text("one = 2\n")
    py_compile.compile(str(other), cfile=str(compiled), doraise=True)
    (installed.folder / "numpy" / "core.abi3.so").write_bytes(b"")
    assert list(environment._changed(installed.package, deep=False)) == []
    assert list(environment._changed(installed.package, deep=True)) == [
        f"numpy/__pycache__/{compiled.name} (differs from its source)",
        "numpy/core.abi3.so (added)",
    ]


def test_a_missing_file_of_a_package_is_found_and_a_package_without_a_list_is_named(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed.folder / "numpy" / "core.py").unlink()
    assert list(environment._changed(installed.package, deep=False)) == ["numpy/core.py (missing)"]
    monkeypatch.setattr(environment, "_distribution", lambda name: installed.package if name == "numpy" else None)
    assert environment.packages_without_list() == []
    (installed.folder / "numpy-1.0.dist-info" / "RECORD").unlink()
    assert environment.packages_without_list() == ["numpy"]


def test_files_that_python_itself_installs_are_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    assert environment._installed_by(tmp_path / "sitecustomize.py") is None
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert environment._installed_by(tmp_path / "sitecustomize.py") == "Python"
