from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import read_section
from rfdetr_core.checkpoint.files import file_content, make_checkpoint, write_plain
from rfdetr_core.cli import main
from rfdetr_core.config.preflight import check_masks, check_packages, check_params, check_project, memory
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector
from rfdetr_core.verification.lock import read_stages
from tests.ingest.samples import edit_coco, make_coco, make_masks, make_yolo

STEP = "torch.optim.lr_scheduler.StepLR"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Weights of pico: a model file, and a state of a training."""
    folder, pico = tmp_path_factory.mktemp("weights"), VARIANTS["pico"]
    content = file_content(make_checkpoint(pico, build_detector(pico).state_dict(), class_names=["a"], args={}))
    write_plain(folder / "here.pth", content)
    write_plain(folder / "state.pth", content | {"run": {"finished": True}})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def project(tmp_path: Path, weights: dict[str, bytes]) -> Path:
    make_coco(tmp_path / "data" / "mine")
    (tmp_path / "weights").mkdir()
    for name, content in weights.items():
        (tmp_path / "weights" / name).write_bytes(content)
    return tmp_path


def check(project: Path, section: str, values: str) -> list[str]:
    data = "" if section == "data" else "data: {dir: data/mine}\n"
    (project / "params.yaml").write_text(f"{data}{section}: {values}\n")
    return check_project(project)


@pytest.mark.parametrize("name", [".", "..", "", "output", "output/data", "link"])
def test_a_folder_of_results_is_not_a_dataset(project: Path, name: str) -> None:
    (project / "output" / "data").mkdir(parents=True)
    (project / "link").symlink_to("output", target_is_directory=True)
    with pytest.raises(
        UserError, match=rf"params\.yaml: data\.dir is '{name}', but stages write results to \w+/\. Use a folder that"
    ):
        check(project, "data", f"{{dir: '{name}'}}")


@pytest.mark.parametrize("place", ["data/mine/train/pipe.jpg", "data/mine/new/deep/pipe", "weights/pipe.pth"])
@pytest.mark.parametrize("link", [False, True])
def test_a_pipe_that_dvc_would_wait_for_is_refused(project: Path, place: str, link: bool) -> None:
    path = project / place
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(project / "pipe" if link else path)
    if link:
        path.symlink_to(project / "pipe")
    with pytest.raises(UserError, match=f"{place} is a pipe"):
        check(project, "data", "{dir: data/mine}")


@pytest.mark.parametrize("name", ["./data/mine", "data/mine/", "data//mine", "data/other/../mine", "data/./mine"])
def test_the_dataset_has_one_spelling(project: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: data\.dir is '{name}': .* Write data/mine$"):
        check(project, "data", f"{{dir: '{name}'}}")
    check(project, "data", "{dir: data/mine}")
    check(project, "data", f"{{dir: {project}/data/mine}}")


@pytest.mark.parametrize("tracked", ["data/none.dvc", "data.dvc"])
def test_the_message_about_a_missing_tracked_dataset_says_dvc_pull(project: Path, tracked: str) -> None:
    with pytest.raises(UserError, match=r"data\.dir is 'data/none': it does not exist\. Put") as raised:
        check(project, "data", "{dir: data/none}")
    assert "dvc" not in str(raised.value)
    (project / tracked).touch()
    with pytest.raises(UserError, match=f"dvc pull .*{tracked}"):
        check(project, "data", "{dir: data/none}")


def test_a_dataset_that_a_stage_will_create_passes_with_a_warning(project: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=project, check=True)
    (project / "dvc.yaml").write_text("stages: {prepare: {cmd: 'true', outs: [data/made]}}")
    assert check(project, "data", "{dir: data/made}") == [
        "data.dir is 'data/made': the stage prepare of dvc.yaml will create it"
    ]
    with pytest.raises(UserError, match="data/other': it does not exist"):
        check(project, "data", "{dir: data/other}")


def test_a_folder_that_validate_would_refuse_is_refused(project: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".gitignore").write_text("*.png\n")
    with pytest.raises(UserError, match=r"6 files of the dataset folder .* are ignored by git"):
        check(project, "train", "{}")


def test_a_file_is_not_a_dataset(project: Path) -> None:
    with pytest.raises(UserError, match=r"data\.dir is 'weights/here\.pth': it is not a folder"):
        check(project, "data", "{dir: weights/here.pth}")


@pytest.mark.parametrize(("section", "key"), [("model", "pretrain_weights"), ("train", "resume")])
def test_missing_weights_are_named_with_their_key(project: Path, section: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"{section}\.{key}: 'none\.pth'.*here\.pth"):
        check(project, section, f"{{{key}: none.pth}}")
    check(project, section, f"{{{key}: state.pth}}")


@pytest.mark.parametrize("key", ["train: {resume: state.pth}", "{pretrain_weights: here.pth, "])
def test_weights_of_another_variant_are_named_with_their_key(project: Path, key: str) -> None:
    values = f"{key}variant: nano}}" if key.startswith("{") else f"{{variant: nano}}\n{key}"
    with pytest.raises(
        UserError, match=r"params\.yaml: \w+\.\w+: .*\.pth holds weights of RFDETRPico, not of RFDETRNano"
    ):
        check(project, "model", values)


@pytest.mark.parametrize("resolution", [192, 320])
def test_weights_of_the_variant_fit_at_another_resolution(project: Path, resolution: int) -> None:
    check(project, "model", f"{{pretrain_weights: here.pth, resolution: {resolution}}}")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("variant: nano", "not of RFDETRNano .*patch_size 8 instead of 16"),
        ("variant: seg-pico", "not of RFDETRSegPico"),
        ("num_queries: 200", "has 100 queries, but model.num_queries is 200. Lower it"),
    ],
)
def test_weights_that_do_not_fit_are_refused(project: Path, model: str, message: str) -> None:
    shutil.rmtree(project / "data/mine")
    make_masks(project / "data/mine")
    with pytest.raises(UserError, match=rf"params\.yaml: model\.pretrain_weights: .*here\.pth .*{message}"):
        check(project, "model", f"{{pretrain_weights: here.pth, {model}}}")


def test_a_file_without_a_state_is_not_resumed(project: Path) -> None:
    with pytest.raises(UserError, match=r"train\.resume: .*here\.pth has no state to resume.*pretrain_weights"):
        check(project, "train", "{resume: here.pth}")


def test_a_published_name_of_another_variant_is_refused_without_a_download(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RF_HOME", str(project / "none"))
    with pytest.raises(UserError, match=r"model\.pretrain_weights: 'rf-detr-nano\.pth' has weights of .* nano, not of"):
        check(project, "model", "{variant: small, pretrain_weights: rf-detr-nano.pth}")


def test_the_message_about_missing_tracked_weights_says_dvc_pull(project: Path) -> None:
    (project / "weights" / "mine.pth.dvc").touch()
    with pytest.raises(
        UserError, match=r"model\.pretrain_weights: 'mine\.pth' is not in this clone\. Get it: dvc pull"
    ):
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
        (
            "{optimizer: torch.nowhere.Adam}",
            "train.optimizer is .torch.nowhere.Adam.: there is no module torch.nowhere",
        ),
        ("{optimizer: torch.nn.Linear}", "train.optimizer torch.nn.Linear is not a class of the right kind"),
        ("{optimizer: torch.optim.LBFGS}", "per-parameter options"),
        ("{optimizer: torch.optim.NAdam, optimizer_kwargs: {beta: 1}}", "optimizer_kwargs {'beta': 1}"),
        ("{optimizer: adamw, optimizer_kwargs: {betas: [2, 3]}}", "optimizer_kwargs {'betas': "),
        ("{lr_scheduler: torch.optim.lr_scheduler.StepL}", "train.lr_scheduler .*StepL cannot be imported"),
        (f"{{lr_scheduler: {STEP}}}", "lr_scheduler_kwargs {}"),
        (f"{{lr_scheduler: {STEP}, lr_scheduler_kwargs: {{step: 3}}}}", "lr_scheduler_kwargs {'step': 3}"),
    ],
)
def test_an_optimiser_class_that_cannot_be_built_is_named(project: Path, values: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: .*{message}"):
        check(project, "train", values)


def test_several_nodes_without_a_launcher_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"params\.yaml: train\.num_nodes is 2.*torchrun"):
        check(project, "train", "{num_nodes: 2, accelerator: cpu}")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    check(project, "train", "{num_nodes: 2, accelerator: cpu}")


def test_a_batch_larger_than_the_memory_is_refused_with_its_size(project: Path) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size is 100000: a batch needs at least [\d,]+ GB, but only"):
        check(project, "train", "{batch_size: 100000}\nmodel: {variant: nano}")
    check(project, "train", "{batch_size: 16}\nmodel: {variant: nano}")


def test_the_memory_is_at_most_that_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (total,) = re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert 0 < memory() <= 1024 * int(total)
    (tmp_path / "limit").write_text("1000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr("rfdetr_core.config.preflight._CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert memory() == 1000


@pytest.mark.parametrize("make", [make_coco, make_yolo])
def test_a_segmentation_model_on_boxes_without_masks_is_refused(project: Path, make: Callable[[Path], Path]) -> None:
    shutil.rmtree(project / "data/mine")
    make(project / "data/mine")
    check(project, "model", "{variant: pico}")
    with pytest.raises(UserError, match=r"model\.variant seg-pico segments, but 3 of 3 objects of train have no"):
        check(project, "model", "{variant: seg-pico}")


@pytest.mark.parametrize("bare", [0, 1])
def test_after_validation_every_object_must_have_a_mask(tmp_path: Path, bare: int) -> None:
    root = make_masks(tmp_path / "data")
    edit_coco(root, "valid", lambda content: [row.update(segmentation=[]) for row in content["annotations"][:bare]])
    edit_coco(root, "test", lambda content: [row.update(segmentation=[]) for row in content["annotations"]])
    validate_dataset(root, ValidateConfig(), tmp_path, tmp_path / "manifest")
    params = tmp_path / "params.yaml"
    params.write_text("model: {variant: pico}\n")
    check_masks(tmp_path / "statistics.json", params)
    params.write_text("model: {variant: seg-pico}\n")
    if bare:
        with pytest.raises(UserError, match="1 of 2 objects of valid have no mask"):
            check_masks(tmp_path / "statistics.json", params)
    else:
        check_masks(tmp_path / "statistics.json", params)


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], list[str]]:
    """Check installed versions, by package name, against a lock."""
    lines = ["numpy==2.4.5", "torch==2.15.0", "nvidia-nccl==2.3 ; sys_platform == 'linux'"]
    lines += ["colorama==0.4.6 ; sys_platform == 'win32'", "scipy==1.0 ; python_full_version < '3'", "aiohttp==3.1"]
    (tmp_path / "numeric.lock").write_text("".join(f"{line} \\\n    --hash=sha256:00\n" for line in lines))

    def check_installed(installed: dict[str, str]) -> list[str]:
        def version(name: str) -> str:
            if name not in installed:
                raise PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr("rfdetr_core.config.preflight.metadata.version", version)
        return check_packages(tmp_path / "numeric.lock")

    return check_installed


@pytest.mark.parametrize(
    "installed",
    [
        {"numpy": "2.4.5", "torch": "2.15.0", "nvidia-nccl": "2.3"},
        {"torch": "2.15.0+cpu"},
        {"torch": "2.15.0+cu130"},
        {"colorama": "0.1", "scipy": "1.5"},  # locked for another system, for another Python
    ],
)
def test_locked_versions_pass_with_any_local_build(
    locked: Callable[[dict[str, str]], list[str]], installed: dict[str, str]
) -> None:
    assert locked(installed) == []


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"numpy": "2.4.6"}, r"numpy 2\.4\.6 \(locked: ==2\.4\.5\)"),
        ({"torch": "2.14.0+cpu", "numpy": "2.4.5"}, r"torch 2\.14\.0\+cpu"),
        ({"torch": "2.15.0", "nvidia-nccl": "2.4"}, "nvidia-nccl 2.4"),
    ],
)
def test_another_version_of_a_package_that_affects_numbers_is_refused(
    locked: Callable[[dict[str, str]], list[str]], installed: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=rf"numeric\.lock.*{message}.*pip install --require-hashes.*make lock"):
        locked(installed)


@pytest.mark.parametrize(
    ("installed", "message"),
    [({"aiohttp": "3.2"}, "aiohttp 3.2"), ({"torch": "2.15.0+cu129", "nvidia-nccl": "2.4"}, "nvidia-nccl 2.4")],
)
def test_another_version_of_any_other_package_is_a_warning(
    locked: Callable[[dict[str, str]], list[str]], installed: dict[str, str], message: str
) -> None:
    (warning,) = locked(installed)
    assert message in warning


@pytest.mark.parametrize("freeze", ["true", "false"])
def test_optimiser_classes_that_can_be_built_pass(project: Path, freeze: str) -> None:
    kwargs = "optimizer: torch.optim.NAdam, optimizer_kwargs: {betas: [0.9, 0.99]}, lr_scheduler_kwargs: {step_size: 3}"
    model = f"model: {{freeze_encoder: {freeze}}}"
    check(project, "train", f"{{{kwargs}, lr_scheduler: {STEP}}}\n{model}")


def test_the_projects_own_params_pass_without_importing_what_computes() -> None:
    code = "import sys; from rfdetr_core.config.preflight import check_project as check; assert check() == []; "
    code += "assert not sys.modules.keys() & {'torch', 'torchvision', 'pycocotools'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_settings_of_training_are_read_without_importing_what_computes() -> None:
    code = "import sys; from rfdetr_core.training.config import TrainConfig; TrainConfig(augmentation={'hue': 0.1}); "
    code += "assert not sys.modules.keys() & {'torch', 'torchvision', 'pycocotools', 'PIL', 'numpy'}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("where", ["train.notes", "data.dir", "gate.${x}"])
def test_every_reader_of_params_refuses_an_interpolation(
    project: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`dvc exp run -S` would write the value of the environment variable into git."""
    section, _, key = where.partition(".")
    (project / "params.yaml").write_text(f"{section}: {{'{key}': '${{oc.env:HOME}}'}}\n")
    shutil.copy(ROOT / "dvc.yaml", project)
    monkeypatch.chdir(project)
    message = f"params.yaml: {where} has an interpolation"
    readers: list[Callable[[], object]] = [check_params, check_project, lambda: read_stages(Path())]
    for read in [*readers, lambda: read_section(ValidateConfig, "validate")]:
        with pytest.raises(UserError, match=re.escape(message)):
            read()
    with pytest.raises(SystemExit, match=re.escape(f"error: {message}")):
        main(["check", "--params"])
    for name in ("rfdetr_core", "stages"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "stages.convert"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (done.returncode, message in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
