"""No command writes into DVC's cache, even if files of the project are links to it (cache.type)."""

from __future__ import annotations

import importlib

import pytest

import rfdetr_core
from rfdetr_core.base import files
from rfdetr_core.cli import main
from tests.architecture import STAGES
from tests.pipeline.project import Project

pytestmark = pytest.mark.slow
MODEL, STATE = "output/checkpoint_best_total.pth", "output/checkpoint.pth"
IMAGE = "data/tiny/test/test_0.png"
# Files that commands write and that are not outs of dvc.yaml. A user may add them to DVC.
ADDED = (
    STATE, "output/checkpoint_0.pth", "weights/promoted.pth", "weights/resume.pth", "attested.json", "predictions",
    "reports/preview", "runs",
)  # fmt: skip


def write_everything(project: Project, seed: int) -> None:
    """Run each command that writes files. Stages run without DVC, which would remove their outs first."""
    runtime = {"checkpoint_interval": 1, "progress_bar": None}
    project.set_params(train={"seed": seed, "epochs": 1}, evaluate={"threshold": seed / 10}, runtime=runtime)
    project.edit_annotations("train", bbox=[seed, seed, 20, 20], area=400)
    project.edit_annotations("test", bbox=[seed, seed, 20, 20], area=400)
    for stage in STAGES:
        importlib.import_module(f"stages.{stage}").main()
    main(["promote"])
    main(["promote", STATE])
    main(["attest", MODEL, "--output", "attested.json", "--own-word"])
    main(["predict", MODEL, IMAGE, "--threshold", str(seed / 1000), "--device", "cpu"])
    main(["preview", "--epoch", str(seed), "--count", "2"])
    model = rfdetr_core.RFDETRPico(resolution=64, num_queries=10, group_detr=2, device="cpu")
    model.train(
        dataset_dir="data/tiny",
        output_dir="runs",
        epochs=1,
        batch_size=2,
        seed=seed,
        checkpoint_interval=1,
        num_workers=0,
        threads=1,
        run_test=True,
    )


def contents(project: Project) -> dict[str, str]:
    """The digests of all files except those of DVC and git."""
    paths = (path for path in project.folder.rglob("*") if path.is_file())
    names = {path.relative_to(project.folder).as_posix(): path for path in paths}
    return {name: files.md5_file(path) for name, path in names.items() if not name.startswith((".dvc/", ".git/"))}


@pytest.fixture(scope="module")
def trained(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """All files were written once, and are in DVC's cache."""
    project = reproduced.copy(tmp_path_factory.mktemp("links") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project.folder)
        write_everything(project, 1)
    project.run("dvc", "commit", "-q", "--force")
    project.run("dvc", "add", "-q", *ADDED)
    return project


@pytest.mark.parametrize("links", ["hardlink", "symlink", "reflink,copy"])
def test_no_command_writes_into_the_cache(project: Project, links: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.run("dvc", "config", "cache.type", links)
    project.run("dvc", "checkout", "-q", "--relink", "--force")
    model = project.folder / MODEL
    assert (model.is_symlink(), model.stat().st_nlink > 1) == (links == "symlink", links == "hardlink")
    before = contents(project)
    monkeypatch.chdir(project.folder)
    write_everything(project, 2)
    after = contents(project)
    for name in (*ADDED, "annotations/train.json", "reports/evaluate", "reports/dataset/index.html", MODEL):
        inside = [path for path in before if f"{path}/".startswith(f"{name}/")]
        assert any(before[path] != after.get(path) for path in inside), f"the test wrote nothing else into {name}"
    cache = project.folder / ".dvc" / "cache" / "files" / "md5"
    objects = [path for path in cache.rglob("*") if path.is_file()]
    wrong = [path for path in objects if files.md5_file(path) != f"{path.parent.name}{path.stem}"]
    assert objects
    assert wrong == []
