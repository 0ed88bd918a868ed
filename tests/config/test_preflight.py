from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.cli import main
from rfdetr_core.config.settings import check_project

STEP = "torch.optim.lr_scheduler.StepLR"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "here.pth").touch()
    return tmp_path


def check(project: Path, section: str, values: str) -> None:
    data = "" if section == "data" else "data: {dir: data/mine}\n"
    (project / "params.yaml").write_text(f"{data}{section}: {values}\n")
    check_project(project)


@pytest.mark.parametrize("name", [".", "..", "", "output", "output/data", "link"])
def test_results_are_no_dataset(project: Path, name: str) -> None:
    (project / "output" / "data").mkdir(parents=True)
    (project / "link").symlink_to("output", target_is_directory=True)
    with pytest.raises(UserError, match=rf"params\.yaml: data\.dir is '{name}', which holds results"):
        check(project, "data", f"{{dir: '{name}'}}")


@pytest.mark.parametrize("name", ["./data/mine", "data/mine/", "data//mine", "data/other/../mine", "data/./mine"])
def test_the_dataset_has_one_spelling(project: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: data\.dir is '{name}': .* Write data/mine$"):
        check(project, "data", f"{{dir: '{name}'}}")
    check(project, "data", "{dir: data/mine}")
    check(project, "data", f"{{dir: {project}/data/mine}}")


@pytest.mark.parametrize("tracked", ["data/none.dvc", "data.dvc"])
def test_a_missing_dataset_is_to_be_pulled_where_dvc_knows_it(project: Path, tracked: str) -> None:
    with pytest.raises(UserError, match=r"data\.dir is 'data/none': it does not exist\. Put") as raised:
        check(project, "data", "{dir: data/none}")
    assert "dvc" not in str(raised.value)
    (project / tracked).touch()
    with pytest.raises(UserError, match=f"dvc pull .*{tracked}"):
        check(project, "data", "{dir: data/none}")


def test_a_file_is_no_dataset(project: Path) -> None:
    with pytest.raises(UserError, match=r"data\.dir is 'weights/here\.pth': no folder"):
        check(project, "data", "{dir: weights/here.pth}")


@pytest.mark.parametrize(("section", "key"), [("model", "pretrain_weights"), ("train", "resume")])
def test_missing_weights_are_named_with_their_key(project: Path, section: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{section}\.{key}: 'none\.pth'.*here\.pth"):
        check(project, section, f"{{{key}: none.pth}}")
    check(project, section, f"{{{key}: here.pth}}")


def test_missing_weights_are_to_be_pulled_where_dvc_knows_them(project: Path) -> None:
    (project / "weights" / "mine.pth.dvc").touch()
    with pytest.raises(UserError, match=r"model\.pretrain_weights: 'mine\.pth' is not here\. Fetch it: dvc pull"):
        check(project, "model", "{pretrain_weights: mine.pth}")


def test_the_parameters_alone_are_checked_without_data(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "params.yaml").write_text("data: {dir: data/none}\nmodel: {pretrain_weights: none.pth}\n")
    monkeypatch.chdir(project)
    main(["check", "--params"])
    with pytest.raises(SystemExit, match=r"data\.dir is 'data/none'"):
        main(["check"])
    (project / "params.yaml").write_text("train: {epochs: none}\n")
    with pytest.raises(SystemExit, match=r"train\.epochs"):
        main(["check", "--params"])


def test_published_weights_are_not_fetched(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rfdetr_core.checkpoint.published.fetch", lambda name: pytest.fail(f"{name} was fetched"))
    check(project, "model", "{variant: nano, pretrain_weights: rf-detr-nano.pth}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{optimizer: torch.optim.Nadamm}", "train.optimizer torch.optim.Nadamm cannot be imported"),
        ("{optimizer: torch.nowhere.Adam}", "train.optimizer torch.nowhere.Adam cannot be imported"),
        ("{optimizer: torch.nn.Linear}", "train.optimizer torch.nn.Linear is no class for it"),
        ("{optimizer: torch.optim.LBFGS}", "per-parameter options"),
        ("{optimizer: torch.optim.NAdam, optimizer_kwargs: {beta: 1}}", "optimizer_kwargs {'beta': 1}"),
        ("{optimizer: adamw, optimizer_kwargs: {betas: [2, 3]}}", "optimizer_kwargs {'betas': "),
        ("{lr_scheduler: torch.optim.lr_scheduler.StepL}", "train.lr_scheduler .*StepL cannot be imported"),
        (f"{{lr_scheduler: {STEP}}}", "lr_scheduler_kwargs {}"),
        (f"{{lr_scheduler: {STEP}, lr_scheduler_kwargs: {{step: 3}}}}", "lr_scheduler_kwargs {'step': 3}"),
    ],
)
def test_a_class_that_training_could_not_make_is_named(project: Path, values: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: .*{message}"):
        check(project, "train", values)


def test_several_nodes_without_a_launcher_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: train\.num_nodes is 2.*torchrun"):
        check(project, "train", "{num_nodes: 2, accelerator: cpu}")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    check(project, "train", "{num_nodes: 2, accelerator: cpu}")


@pytest.mark.parametrize("freeze", ["true", "false"])
def test_classes_that_training_makes_pass(project: Path, freeze: str) -> None:
    kwargs = "optimizer: torch.optim.NAdam, optimizer_kwargs: {betas: [0.9, 0.99]}, lr_scheduler_kwargs: {step_size: 3}"
    model = f"model: {{freeze_encoder: {freeze}}}"
    check(project, "train", f"{{{kwargs}, lr_scheduler: {STEP}}}\n{model}")


def test_the_projects_own_params_pass_without_importing_what_computes() -> None:
    code = "import sys; from rfdetr_core.config.settings import check_project as check; check(); "
    code += "assert not sys.modules.keys() & {'torch', 'torchvision', 'pycocotools'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_settings_of_training_are_read_without_importing_what_computes() -> None:
    code = "import sys; from rfdetr_core.training.config import TrainConfig; TrainConfig(augmentation={'hue': 0.1}); "
    code += "assert not sys.modules.keys() & {'torch', 'torchvision', 'pycocotools', 'PIL', 'numpy'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
