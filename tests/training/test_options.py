"""Every option has an effect."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.files import sha256_file
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.files import read_checkpoint
from rfdetr_core.loss import terms
from rfdetr_core.metrics.coco import score
from rfdetr_core.selection.select import select
from rfdetr_core.training.callbacks import CocoScoring
from rfdetr_core.training.record import differences, fingerprint
from rfdetr_core.training.trainer import build_trainer
from tests.training.test_module import prepared
from tests.training.test_run import rows
from tests.training.tiny import OUTS, make_files, train

STEPLR = "torch.optim.lr_scheduler.StepLR"
# Changes of single options of a training that crops, flips and scales by default.
CHANGES: list[dict[str, Any]] = [
    {"batch_size": 1},
    {"grad_accum_steps": 2},
    {"lr": 2e-3},
    {"lr_encoder": 3e-3},
    {"lr_vit_layer_decay": 0.5},
    {"lr_component_decay": 0.5},
    {"weight_decay": 0.1},
    {"optimizer": "sgd"},
    {"optimizer": "torch.optim.RAdam"},
    {"optimizer_kwargs": {"betas": [0.5, 0.9]}},
    {"lr_scheduler": "cosine"},
    {"lr_scheduler": "cosine", "lr_scheduler_kwargs": {"min_factor": 0.5}},
    {"lr_scheduler_kwargs": {"lr_drop": 0}},
    {"lr_scheduler": STEPLR, "lr_scheduler_kwargs": {"step_size": 1}},
    {"warmup_epochs": 1.0},
    {"clip_max_norm": 0.0},
    {"drop_path": 0.9},
    {"cls_loss_coef": 2.0},
    {"bbox_loss_coef": 2.0},
    {"giou_loss_coef": 1.0},
    {"multi_scale": "per-sample"},
    {"multi_scale": "off"},
    {"expanded_scales": False},
    {"scale_jitter": False},
    {"augmentation": {"horizontal_flip": 0.0}},
    {"seed": 3},
    {"amp_dtype": "bf16"},
]
OF_MASKS = [{"mask_ce_loss_coef": 1.0}, {"mask_dice_loss_coef": 1.0}, {"mask_point_sample_ratio": 4}]
NO_CHANGES: list[dict[str, Any]] = [
    {"eval_batch_size": 1},
    {"eval_interval": 2},
    {"eval_max_dets": 3},
    {"log_per_class_metrics": True},
    {"compute_val_loss": True},
    {"compute_train_metrics": True},
    {"compact_train_metrics": False},
    {"use_ema": False},
    {"best_model_metric": "f1"},
]
BASE = {"epochs": 3, "lr": 1e-3, "multi_scale": "per-batch"}


def weights_after(where: ProjectPaths, steps: int = 2, variant: str = "pico", **changes: Any) -> dict[str, Tensor]:
    model = {"variant": variant, "resolution": 64 if variant == "pico" else 48}
    training, config = prepared(where, model, **BASE | changes)
    build_trainer(config, callbacks=training.callbacks[2:], limit_val_batches=0, max_steps=steps).fit(
        training.module, training.data
    )
    return training.module.detector.state_dict()


@pytest.fixture(scope="module")
def usual(where: ProjectPaths) -> dict[str, Tensor]:
    """Weights after two steps of the default training."""
    return weights_after(where)


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_shapes_training_changes_the_weights(
    where: ProjectPaths, usual: dict[str, Tensor], change: dict[str, Any]
) -> None:
    changed = weights_after(where, **change)
    assert not all(value.equal(changed[name]) for name, value in usual.items())


@pytest.mark.parametrize("change", NO_CHANGES, ids=str)
def test_options_that_only_observe_do_not_change_the_weights(
    where: ProjectPaths, usual: dict[str, Tensor], change: dict[str, Any]
) -> None:
    changed = weights_after(where, **change)
    assert all(value.equal(changed[name]) for name, value in usual.items())


def test_options_of_mask_training_change_the_weights(where: ProjectPaths) -> None:
    usual = weights_after(where, 1, "seg-pico", multi_scale="off", scale_jitter=False)
    for change in (*OF_MASKS, {"multi_scale": "per-sample"}):
        changed = weights_after(where, 1, "seg-pico", **{"multi_scale": "off", "scale_jitter": False} | change)
        assert not all(value.equal(changed[name]) for name, value in usual.items()), change


def test_requested_metrics_are_in_the_history(
    where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path
) -> None:
    asked = {"log_per_class_metrics": True, "compute_val_loss": True, "compute_train_metrics": True}
    row = rows(train(where, output, train={"epochs": 1, "compact_train_metrics": False, **asked}))[0]
    usual = rows(uninterrupted)[0]
    new = {f"val/{track}{name}" for track in ("", "ema_") for name in ("AP/red", "AP/green", "loss")}
    assert row.keys() - usual.keys() >= new | {"train/mAP_50_95", "train/F1", "train/loss_ce_0", "train/loss_ce_enc"}
    assert float(row["val/loss"]) > 0
    mean = (float(row["val/AP/red"]) + float(row["val/AP/green"])) / 2
    assert mean == pytest.approx(float(row["val/mAP_50_95"]))
    for term in ("loss_ce", "loss_bbox", "loss_giou"):
        inner = sum(float(value) for name, value in row.items() if name.startswith(f"train/{term}_"))
        assert inner == pytest.approx(float(usual[f"train/{term}_aux"]), rel=1e-5)


def test_each_term_that_has_a_weight_has_its_columns_in_the_history(
    where: ProjectPaths, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = terms.Term("loss_new", "new_loss_coef", terms.loss_giou, default=0.5, description="news")
    monkeypatch.setattr(terms, "TERMS", (*terms.TERMS, new))
    row = rows(train(where, output, train={"epochs": 1, "giou_loss_coef": 0.0}))[0]
    expected = ["train/loss", *(f"train/loss_{name}{end}" for end in ("", "_aux") for name in ("ce", "bbox", "new"))]
    assert [name for name in row if name.startswith("train/loss")] == expected


def test_the_loss_on_valid_hardly_depends_on_the_batch_size(where: ProjectPaths, tmp_path: Path) -> None:
    asked = {"epochs": 1, "compute_val_loss": True}
    batches_of_one, two = (
        rows(train(where, tmp_path / str(size), train=asked | {"eval_batch_size": size}))[0]["val/loss"]
        for size in (1, 2)
    )
    assert float(batches_of_one) == pytest.approx(float(two), rel=1e-4)


def test_without_an_average_both_best_files_have_the_regular_weights(where: ProjectPaths, output: Path) -> None:
    files = train(where, output, train={"use_ema": False})
    scores = json.loads(files["scores.json"])
    best = scores["val/mAP_50_95"]
    assert best["ema"] == {"score": None, "epoch": best["regular"]["epoch"]}
    assert select(scores)["winner"] == "regular"
    regular, ema = (read_checkpoint(output / name).weights for name in sorted(OUTS[:2], reverse=True))
    assert all(value.equal(ema[name]) for name, value in regular.items())
    assert not [name for name in rows(files)[0] if "ema" in name]


def test_sanity_checks_never_count(where: ProjectPaths, uninterrupted: dict[str, bytes], output: Path) -> None:
    assert train(where, output, runtime={"num_sanity_val_steps": 2}) == uninterrupted


@pytest.mark.parametrize("coarse", [True, False])
def test_masks_can_be_scored_at_the_resolution_of_their_head(where: ProjectPaths, coarse: bool) -> None:
    model = {"variant": "seg-pico", "resolution": 48}
    training, _ = prepared(where, model, eval_masks_head_resolution=coarse)
    module, scoring, size = training.module.eval(), training.callbacks[0], [12, 12] if coarse else [64, 64]
    batch = next(iter(training.data.val_dataloader())).normalised()
    results = module.validation_step(batch, 0)["regular"]
    assert {tuple(result["segmentation"]["size"]) for result in results} == {tuple(size)}
    assert isinstance(scoring, CocoScoring)
    if coarse:  # the masks of the truth have this resolution, too, so they match
        perfect = [annotation | {"score": 1.0} for annotation in scoring.masks["annotations"]]
        assert score(scoring.masks, perfect, "segm").map == 1


def test_a_schedule_can_follow_the_loss_on_valid(where: ProjectPaths, output: Path) -> None:
    plateau = {"lr_scheduler": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
    never = plateau | {"lr_scheduler_kwargs": {"patience": 0, "threshold": 0.99, "factor": 0.5}}
    history = rows(train(where, output / "loss", train=never))
    assert [float(row["train/lr"]) for row in history] == pytest.approx([1e-3, 1e-3, 5e-4])
    with pytest.raises(UserError, match=r"is val/mAP, but an epoch has no such value\. It has: .*val/mAP_50_95"):
        train(where, output / "wrong", train=plateau | {"lr_scheduler_monitor": "val/mAP"})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optimizer": "torch.optim.Nothing"}, "Nothing"),
        ({"optimizer": "torch.nn.Linear"}, "is not a class of the right kind"),
        ({"optimizer_kwargs": {"beta": 1}}, "beta"),
        ({"lr_scheduler": STEPLR}, "step_size"),
    ],
)
def test_unsuitable_classes_are_named(where: ProjectPaths, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        weights_after(where, **changes)


def test_a_class_of_an_installed_package_is_recorded_with_its_file(
    where: ProjectPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "site-packages"
    (place / "tools_of_others-1.2.dist-info").mkdir(parents=True)
    (place / "tools_of_others-1.2.dist-info" / "METADATA").write_text("Name: tools-of-others\nVersion: 1.2\n")
    (place / "tools_of_others-1.2.dist-info" / "top_level.txt").write_text("tools_of_others\n")
    (place / "tools_of_others").mkdir()
    (place / "tools_of_others" / "__init__.py").write_text("from tools_of_others.plain import Plain\n")
    module = place / "tools_of_others" / "plain.py"
    module.write_text("import torch\n\n\nclass Plain(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(str(place))
    training, _ = prepared(where, optimizer="tools_of_others.Plain", lr_scheduler=STEPLR)
    classes = training.record["classes"]
    assert classes["optimizer"] == {
        "module": "tools_of_others.plain", "package": "tools-of-others", "version": "1.2", "sha256": sha256_file(module)
    }  # fmt: skip
    assert (classes["lr_scheduler"]["package"], classes["lr_scheduler"]["version"]) == ("torch", version("torch"))
    before = fingerprint(training.record)
    module.write_text(module.read_text() + "    extra = 1\n")
    again, _ = prepared(where, optimizer="tools_of_others.Plain", lr_scheduler=STEPLR)
    changed = differences(before, fingerprint(again.record))
    assert len(changed) == 1
    assert changed[0].startswith("classes.optimizer.sha256 was ")
    assert "classes" not in prepared(where, optimizer="sgd")[0].record


def test_class_names_are_compared_with_the_dataset_and_notes_are_saved(where: ProjectPaths, output: Path) -> None:
    with pytest.raises(UserError, match="class_names"):
        train(where, output, train={"class_names": ["green", "red"]})
    train(where, output, train={"epochs": 1, "class_names": ["red", "green"], "notes": {"who": ["me", 1]}})
    assert read_checkpoint(output / OUTS[0]).args["notes"] == {"who": ["me", 1]}


def test_loader_options_reach_the_loaders(where: ProjectPaths) -> None:
    options = {"num_workers": 1, "pin_memory": True, "persistent_workers": False, "prefetch_factor": 5}
    data = prepared(where, runtime=options, eval_batch_size=3)[0].data
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert (loader.num_workers, loader.pin_memory) == (1, True)
        assert (loader.persistent_workers, loader.prefetch_factor) == (False, 5)
    assert (data.train_dataloader().batch_size, data.val_dataloader().batch_size) == (2, 3)


def test_the_effective_batch_size_is_printed_and_recorded(
    where: ProjectPaths, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(where, output, train={"epochs": 1, "batch_size": "auto", "auto_batch_target_effective": 6})
    assert "effective batch size 8: 4 images (auto) x 2 batches a step x 1 devices" in capsys.readouterr().out
    checkpoint = read_checkpoint(output / OUTS[0])
    assert checkpoint.training_record is not None
    assert checkpoint.training_record["params"]["train"]["batch_size"] == "auto"
    machine = checkpoint.training_record["machine"]
    assert [machine[key] for key in ("batch_size", "grad_accum_steps", "effective_batch_size")] == [4, 2, 8]
    assert checkpoint.args["batch_size"] == 4


@pytest.mark.parametrize(("objects", "kinds"), [(0, 2), (2000, 2), (2, 1)])
def test_training_works_without_objects_with_two_thousand_and_with_one_class(
    tmp_path: Path, objects: int, kinds: int
) -> None:
    where = make_files(tmp_path, 2, 1, objects, kinds)
    files = train(where, tmp_path / "output", train={"epochs": 1})
    assert torch.isfinite(torch.tensor(float(rows(files)[0]["train/loss"])))


@pytest.mark.slow
def test_custom_schedules_and_optimisers_resume_as_if_never_interrupted(where: ProjectPaths, tmp_path: Path) -> None:
    own: dict[str, Any] = {"optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.9}, "warmup_epochs": 0.5}
    own |= {"lr_scheduler": STEPLR, "lr_scheduler_kwargs": {"step_size": 3}, "smooth_alpha": 0.5, "use_ema": False}
    whole = train(where, tmp_path / "whole", train=own)
    train(where, tmp_path / "part", train=own | {"epochs": 2})
    (where.weights / "part.pth").write_bytes((tmp_path / "part" / "checkpoint.pth").read_bytes())
    resumed = train(where, tmp_path / "resumed", train=own | {"resume": "part.pth"})
    assert resumed["history.csv"] == whole["history.csv"]
