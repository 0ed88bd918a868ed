from __future__ import annotations

from typing import Any

import pytest

from rfdetr_core.errors import UserError
from rfdetr_core.params import parse
from rfdetr_core.training.config import RuntimeConfig, TrainConfig


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epochs": 2, "warmup_epochs": 2}, "warmup_epochs"),
        ({"lr_min_factor": 0.1}, "lr_min_factor"),
        ({"devices": 0}, "devices"),
        ({"batch_size": 0}, "train.batch_size"),
        ({"seed": None}, "train.seed"),
        ({"precision": "bf16"}, "train.precision"),
        ({"epoch": 3}, "Did you mean epochs?"),
        ({"augmentation": {"flip": 1}}, "train.augmentation.flip"),
    ],
)
def test_contradictions_and_unknown_keys_are_errors(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named.replace("?", r"\?")):
        parse(TrainConfig, values, "train")


def test_every_option_says_what_it_is() -> None:
    for config in (TrainConfig, RuntimeConfig):
        assert not [name for name, field in config.model_fields.items() if not field.description]


def test_options_of_both_sections_have_different_names() -> None:
    assert not TrainConfig.model_fields.keys() & RuntimeConfig.model_fields.keys()


@pytest.mark.parity
def test_names_and_defaults_are_upstreams() -> None:
    upstream = pytest.importorskip("rfdetr.config")
    fields = upstream.TrainConfig.model_fields | upstream.SegmentationTrainConfig.model_fields
    # A fixed seed, a flag for multi_scale, which has one way here, and what upstream names otherwise or keeps hidden.
    own = {"seed", "multi_scale", "augmentation", "precision", "deterministic", "lr_drop", "lr_min_factor"}
    own |= {"bbox_loss_coef", "giou_loss_coef", "resume"}
    config = TrainConfig()
    for name in TrainConfig.model_fields.keys() - own:
        assert getattr(config, name) == fields[name].default, name
