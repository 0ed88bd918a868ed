"""Only what changed reruns: real `dvc repro` on a real project, counting the stages that ran."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.architecture import NO_DEPENDENCY, ROOT, closure
from tests.pipeline.project import STAGES, Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline ran once and was committed. Tests put back what they change."""
    project = reproduced.copy(tmp_path_factory.mktemp("a project") / "main")
    project.commit("trained")
    return project


@pytest.fixture
def project(trained: Project):
    """The trained project; afterwards its files are as committed and its outs those of dvc.lock."""
    yield trained
    trained.run("git", "checkout", "-q", "--", ".")
    trained.run("git", "clean", "-q", "-fd")
    trained.run("dvc", "checkout", "-q")


def test_nothing_changed_runs_nothing(project: Project) -> None:
    assert project.repro() == []


def test_a_parameter_of_evaluate_runs_evaluate_alone(project: Project) -> None:
    project.set_params(evaluate={"pictures": 2})
    assert project.repro() == ["evaluate"]


def test_runtime_settings_run_nothing(project: Project) -> None:
    project.set_params(runtime={"num_workers": 1})
    assert project.repro() == []


def test_a_comment_in_params_runs_nothing(project: Project) -> None:
    path = project.folder / "params.yaml"
    path.write_text("# a comment\n" + path.read_text())
    assert project.repro() == []


def test_resaved_and_reordered_annotations_do_not_train(project: Project) -> None:
    path = project.folder / "data" / "tiny" / "train" / "_annotations.coco.json"
    content = json.loads(path.read_text())
    content = {key: content[key][::-1] for key in sorted(content)}
    path.write_bytes(json.dumps(content, indent=3, sort_keys=True).replace("\n", "\r\n").encode())
    assert project.repro() == ["validate"]


def test_touched_files_run_nothing(project: Project) -> None:
    for path in (project.folder / "data").rglob("*"):
        path.touch()
    assert project.repro() == []


def test_a_renamed_dataset_folder_does_not_train(project: Project) -> None:
    (project.folder / "data" / "tiny").rename(project.folder / "data" / "other")
    project.set_params(data={"dir": "data/other"})
    assert project.repro() == ["validate"]


def repaint(project: Project, split: str) -> None:
    path = project.folder / "data" / "tiny" / split / f"{split}_1.png"
    with Image.open(path) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(path)


def rename_a_class(project: Project) -> None:
    for path in (project.folder / "data" / "tiny").rglob("*.json"):
        path.write_text(path.read_text().replace('"red"', '"crimson"'))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda project: repaint(project, "train"), {"train"}),
        (lambda project: repaint(project, "valid"), {"train", "evaluate"}),  # it evaluates where there is no test
        (lambda project: repaint(project, "test"), {"evaluate"}),
        (rename_a_class, {"train", "evaluate"}),
    ],
    ids=["pixel of train", "pixel of valid", "pixel of test", "class name"],
)
def test_a_pixel_or_a_name_changes_the_stages_that_use_it(
    project: Project, change: Callable[[Project], None], changed: set[str]
) -> None:
    change(project)
    assert project.repro("convert") == ["validate", "convert"]
    assert project.changed_stages() == changed


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_moved_box_of_train_or_valid_runs_everything(project: Project, split: str) -> None:
    project.edit_annotations(split, bbox=[1, 2, 9, 9])
    # select_best reads the two scores alone, and a training of seconds scores 0 before and after.
    assert [stage for stage in project.repro() if stage != "select_best"] == [s for s in STAGES if s != "select_best"]


def test_a_moved_box_of_test_only_evaluates(project: Project) -> None:
    project.edit_annotations("test", bbox=[1, 2, 9, 9])
    assert project.repro() == ["validate", "convert", "evaluate"]


def test_a_module_reruns_the_stages_that_import_it_and_no_other(project: Project) -> None:
    closures = {stage: closure(f"stages.{stage}") for stage in STAGES}
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in sorted((ROOT / "rfdetr_core").rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        if not file.startswith(NO_DEPENDENCY):
            users = tuple(stage for stage, files in closures.items() if file in files)
            groups.setdefault(users, []).append(project.folder / file)
    for users, paths in groups.items():
        originals = {path: path.read_bytes() for path in paths}
        for path, content in originals.items():
            path.write_bytes(content + b"# edited\n")
        assert project.changed_stages() == set(users), paths
        for path, content in originals.items():
            path.write_bytes(content)


def test_a_fresh_clone_with_the_cache_pulled_runs_nothing(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "-d", "-f", "store", str(tmp_path / "store"))
    project.commit("remote")
    project.run("dvc", "push", "-q")
    subprocess.run(["git", "clone", "-q", str(project.folder), str(tmp_path / "clone")], check=True)
    clone = Project(tmp_path / "clone")
    clone.run("dvc", "pull", "-q")
    assert clone.repro() == []


def test_a_failing_stage_names_the_command_that_restores_and_it_does(project: Project) -> None:
    out = project.folder / "output" / "checkpoint_best_total.pth"
    before = out.read_bytes()
    project.edit_annotations("test", category_id=77)
    failed = project.run("dvc", "repro", check=False)
    assert failed.returncode != 0
    assert "Traceback" not in failed.stderr
    restore = re.search(r"^Earlier results.*?: (.*)$", failed.stderr, flags=re.MULTILINE)
    assert restore is not None
    project.run("sh", "-c", restore.group(1))
    project.run("git", "checkout", "-q", "--", "data")
    assert out.read_bytes() == before
    assert project.repro() == []


def test_a_temporary_experiment_trains_the_code_that_it_records(project: Project) -> None:
    edited = project.folder / "rfdetr_core" / "selection" / "select.py"
    edited.write_text(edited.read_text() + '\nraise RuntimeError("this very code ran")\n')
    failed = project.run("dvc", "exp", "run", "--temp", check=False)
    assert failed.returncode != 0
    assert "this very code ran" in failed.stdout + failed.stderr
