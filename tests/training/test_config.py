from __future__ import annotations

import importlib
import math
import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from torch.optim import Optimizer

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.config.settings import ABSENT, DIFFERENT
from rfdetr_core.metrics.coco import CocoScores
from rfdetr_core.metrics.names import REPORTED
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training.config import OPTIMIZERS, PLATEAU, RuntimeConfig, TrainConfig, check_together
from rfdetr_core.training.schedule import SCHEDULES, learning_rate_factor


def test_a_class_of_another_project_can_be_read_but_not_trained_with() -> None:
    """To verify a project, its params are read, but its modules may be missing."""
    for name in ("rfdetr_core.training.mine.Plain", "no_such_package.Adam"):
        config = parse(TrainConfig, {"optimizer": name}, "train")
        with pytest.raises(UserError, match=f"train.optimizer is '{name}': there is no module"):
            check_together(ModelConfig(), config)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs"),
        ({"epochs": 2, "skip_best_epochs": 2}, "skip_best_epochs"),
        ({"lr_scheduler_kwargs": {"min_factor": 0.1}}, "min_factor"),
        ({"lr_scheduler": "cosine", "lr_scheduler_kwargs": {"min_factor": "a"}}, "min_factor"),
        ({"lr_scheduler": "cosine", "lr_scheduler_kwargs": {"min_factor": 1.5}}, "min_factor"),
        ({"lr_scheduler": "torch.optim.lr_scheduler.StepLR", "lr_scheduler_kwargs": {"gamma": float("nan")}}, "nan"),
        ({"optimizer_kwargs": {"eps": float("inf")}}, "optimizer_kwargs"),
        ({"notes": {"rate": float("nan")}}, "train.notes"),
        ({"cls_loss_coef": 0, "bbox_loss_coef": 0, "giou_loss_coef": 0}, "nothing would be learnt"),
        ({"lr_scheduler": "no schedule"}, "package.module.Class"),
        ({"lr_scheduler_interval": "epoch"}, "lr_scheduler_interval"),
        ({"lr_scheduler": PLATEAU, "warmup_epochs": 1}, "warmup_epochs"),
        ({"lr_scheduler": PLATEAU, "compute_val_loss": False}, "compute_val_loss"),
        ({"lr_scheduler": "step", "lr_scheduler_monitor": "val/mAR"}, "lr_scheduler_monitor"),
        ({"optimizer": "muon"}, "package.module.Class"),
        ({"optimizer_kwargs": {"lr": 1}}, "optimizer_kwargs"),
        ({"use_ema": False, "ema_decay": 0.5}, "ema_decay"),
        ({"use_ema": False, "early_stopping_use_ema": True}, "early_stopping_use_ema"),
        ({"batch_size": "auto", "grad_accum_steps": 2}, "grad_accum_steps"),
        ({"batch_size": "auto", "devices": 2}, "a single device"),
        ({"batch_size": "many"}, "train.batch_size"),
        ({"multi_scale": "some"}, "train.multi_scale"),
        ({"devices": 0}, "devices"),
        ({"batch_size": 0}, "train.batch_size"),
        ({"seed": None}, "train.seed"),
        ({"amp_dtype": "bf16-mixed"}, "train.amp_dtype"),
        ({"epoch": 3}, "Did you mean epochs?"),
        ({"augmentation": {"flip": 1}}, "train.augmentation.flip"),
    ],
)
def test_contradictions_and_unknown_keys_are_errors(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named.replace("?", r"\?")):
        parse(TrainConfig, values, "train")


@pytest.mark.parametrize(
    ("model", "train", "named"),
    [
        ({"num_channels": 4}, {}, "num_channels"),
        ({"pretrain_weights": "a.pth"}, {"resume": "b.pth"}, "train.resume"),
        ({"variant": "nano"}, {"mask_dice_loss_coef": 1.0}, "mask_dice_loss_coef"),
        ({"variant": "nano"}, {"eval_masks_head_resolution": True}, "eval_masks_head_resolution"),
    ],
)
def test_sections_that_contradict_each_other_are_errors(
    model: dict[str, Any], train: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        check_together(parse(ModelConfig, model, "model"), parse(TrainConfig, train, "train"))


def test_true_and_false_are_accepted_for_the_options_where_upstream_accepts_them() -> None:
    for value, mode, bar in ((True, "per-batch", "tqdm"), (False, "off", None)):
        assert parse(TrainConfig, {"multi_scale": value}, "train").multi_scale == mode
        assert parse(RuntimeConfig, {"progress_bar": value}, "runtime").progress_bar == bar


def test_without_workers_their_options_are_errors() -> None:
    with pytest.raises(UserError, match="num_workers"):
        parse(RuntimeConfig, {"num_workers": 0, "prefetch_factor": 2}, "runtime")


def test_named_optimisers_are_those_of_torch() -> None:
    classes = {name for name, value in vars(torch.optim).items() if isinstance(value, type)}
    trainable = classes - {"Optimizer", "LBFGS", "Muon", "SparseAdam"}
    assert {name: OPTIMIZERS.get(name.lower()) for name in trainable} == {
        name: f"torch.optim.{name}" for name in trainable
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_named_optimiser_is_a_class_of_that_name(name: str) -> None:
    module, _, attribute = OPTIMIZERS[name].rpartition(".")
    assert attribute.lower() == name
    assert issubclass(getattr(importlib.import_module(module), attribute), Optimizer)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_takes_the_numbers_of_its_row(name: str) -> None:
    numbers = SCHEDULES[name].numbers
    assert all(0 <= number.default <= number.most for number in numbers.values())
    values = {key: min(number.default + 1, number.most) for key, number in numbers.items()}
    config = parse(TrainConfig, {"lr_scheduler": name, "lr_scheduler_kwargs": values}, "train")
    places: dict[str, Any] = {"kind": name, "steps_per_epoch": 2, "epochs": 3, "warmup_epochs": 1}
    factors = [learning_rate_factor(step, **places, **values) for step in range(6)]
    assert factors[:2] == [0, 0.5]
    assert all(math.isfinite(factor) and factor >= 0 for factor in factors)
    assert config.lr_scheduler_kwargs == values


def test_every_choice_of_the_best_epoch_is_in_the_history() -> None:
    choices = get_args(TrainConfig.model_fields["best_model_metric"].annotation)
    assert {"mar_100" if choice == "mar" else choice for choice in choices} <= set(REPORTED.values())
    assert set(REPORTED.values()) <= CocoScores.__dataclass_fields__.keys()


def test_reading_the_options_needs_no_torch() -> None:
    code = "import sys, rfdetr_core.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_option_has_a_description() -> None:
    for config in (TrainConfig, RuntimeConfig):
        assert not [name for name, field in config.model_fields.items() if not field.description]


def test_options_of_both_sections_have_different_names() -> None:
    assert not TrainConfig.model_fields.keys() & RuntimeConfig.model_fields.keys()


@pytest.mark.parity
def test_every_field_of_upstream_is_here_with_its_default_or_a_reason() -> None:
    upstream = pytest.importorskip("rfdetr.config")
    fields = upstream.TrainConfig.model_fields | upstream.SegmentationTrainConfig.model_fields
    here = {"train": TrainConfig.model_fields, "runtime": RuntimeConfig.model_fields}
    for name, field in fields.items():
        homes = [section for section, own in here.items() if name in own]
        assert len(homes) + (name in ABSENT["train"]) == 1, name
        for section in homes:
            ours = here[section][name].get_default(call_default_factory=True)
            theirs = field.get_default(call_default_factory=True)
            assert ours == getattr(theirs, "value", theirs) or f"{section}.{name}" in DIFFERENT, name
    model = upstream.RFDETRNanoConfig.model_fields.keys()
    assert model <= ModelConfig.model_fields.keys() | ABSENT["model"].keys()
