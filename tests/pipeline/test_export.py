"""The stage export in the pipeline: without formats it is quick, and its folder is handled like other results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from tests.pipeline.project import Project


def test_without_formats_the_folder_is_empty_and_no_large_package_is_imported(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("export: {formats: []}\n")
    files.write_text(tmp_path / "output" / "export" / "model.onnx", "of another run")
    large = ["torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino"]
    code = f"import sys, stages.export; stages.export.main(); print([one for one in {large} if one in sys.modules])"
    command, env = [sys.executable, "-c", code], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
    assert list((tmp_path / "output" / "export").iterdir()) == []
    assert files.read_json(tmp_path / "output" / "export.json") == {"files": {}}


def clone(project: Project, folder: Path) -> Project:
    """A clone, with the files of the remote pulled."""
    subprocess.run(["git", "clone", "-q", str(project.folder), str(folder)], check=True)
    copy = Project(folder)
    copy.run("dvc", "pull", "-q")
    return copy


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Trained without formats and committed, with a remote."""
    folder = tmp_path_factory.mktemp("exported")
    project = reproduced.copy(folder / "project")
    project.run("dvc", "remote", "add", "-q", "-d", "store", str(folder / "store"))
    project.commit("trained")
    return project


def exported(project: Project) -> list[str]:
    return sorted(path.name for path in (project.folder / "output" / "export").iterdir())


@pytest.mark.slow
def test_an_empty_folder_is_committed_pushed_pulled_and_checked_out(project: Project, tmp_path: Path) -> None:
    assert exported(project) == []
    assert "output/export" not in project.run(sys.executable, "-m", "rfdetr_core", "results").stdout
    project.run("dvc", "push", "-q")
    cloned = clone(project, tmp_path / "clone")
    assert exported(cloned) == []
    assert cloned.changed_stages() == set()
    assert cloned.repro() == []
    cloned.run(sys.executable, "-m", "rfdetr_core", "verify")
    (project.folder / "output" / "export").rmdir()
    project.run("dvc", "checkout", "-q")
    assert exported(project) == []
    project.run("dvc", "commit", "-q", "-f", "export")
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_formats_run_only_export_and_going_back_runs_nothing(project: Project, tmp_path: Path) -> None:
    project.set_params(export={"formats": ["onnx"]})
    assert project.repro() == ["export"]
    assert project.changed_stages() == set()
    *changed, noted = project.run("git", "status", "--porcelain").stdout.splitlines()
    assert changed == [" M dvc.lock", " M output/export.json", " M params.yaml"]
    assert noted.startswith("?? journal/export-")
    printed = project.run(sys.executable, "-m", "rfdetr_core", "results").stdout
    assert "output/export/: model.onnx  the result for other runtimes\n" in printed
    project.commit("for other runtimes")
    project.run("dvc", "push", "-q")
    cloned = clone(project, tmp_path / "clone")
    assert exported(cloned) == ["model.onnx"]
    assert cloned.repro() == []
    cloned.run(sys.executable, "-m", "rfdetr_core", "verify")

    project.set_params(export={"formats": []})
    assert project.repro() == []
    assert exported(project) == []
    project.set_params(export={"formats": ["onnx"]})
    assert project.repro() == []
    assert exported(project) == ["model.onnx"]
    assert project.run("git", "status", "--porcelain").stdout == ""


@pytest.fixture
def written(project: Project) -> Project:
    """The project with a file for another runtime, committed."""
    project.set_params(export={"formats": ["onnx"], "postprocess": True})
    assert project.repro() == ["export"]
    project.commit("for other runtimes")
    return project


@pytest.mark.slow
def test_a_changed_file_is_named_and_after_a_failed_export_all_files_are_restored(written: Project) -> None:
    path = written.folder / "output" / "export" / "model.onnx"
    made = path.read_bytes()
    path.unlink()  # it can be a link to the cache
    path.write_bytes(made[:-1])
    done = written.run(sys.executable, "-m", "rfdetr_core", "verify", check=False)
    assert done.returncode == 1
    assert "sha256 of output/export/model.onnx: expected" in done.stdout

    graph = written.folder / "rfdetr_core" / "export" / "graph.py"
    graph.write_text(graph.read_text().replace("for values in (IMAGENET_MEAN,", "for values in (IMAGENET_STD,"))
    failed = written.run("dvc", "repro", check=False)
    assert "error: model.onnx is not exported, since it differs from its checkpoint: " in failed.stderr
    assert not path.exists()
    restore = re.search(r"^Earlier results.*?: (.*)$", failed.stderr, flags=re.MULTILINE)
    assert restore is not None
    written.run("sh", "-c", restore.group(1))
    assert path.read_bytes() == made
    written.run("git", "restore", "rfdetr_core")
    assert written.repro() in ([], ["code"])
    assert written.run("git", "status", "--porcelain").stdout == ""


@pytest.mark.slow
def test_a_real_file_is_written_once_and_carries_no_trace_of_the_machine(project: Project) -> None:
    project.set_params(export={"formats": ["onnx"]})
    assert project.repro() == ["export"]
    assert project.repro() == []
    assert exported(project) == ["model.onnx"]
    path = project.folder / "output" / "export" / "model.onnx"
    report = files.read_json(project.folder / "output" / "export.json")
    assert report["source"]["sha256"] == files.sha256_file(project.folder / "output" / "checkpoint_best_total.pth")
    assert (project.folder / "records" / report["source"]["record"]).exists()
    about = report["files"]["model.onnx"]
    assert about["sha256"] == files.sha256_file(path)
    assert max(about["parity"]["queries"][name] for name in ("boxes", "scores")) < 1e-4
    assert set(about["parity"]["ap"]["boxes"]) == {"source", "file"}
    content = path.read_bytes()
    assert str(project.folder).encode() not in content
    assert str(ROOT).encode() not in content

    project.set_params(export={"postprocess": True})
    assert project.repro() == ["export"]
    again = files.read_json(project.folder / "output" / "export.json")
    assert again["source"] == report["source"]
    assert again["files"]["model.onnx"]["images"] == "uint8"
