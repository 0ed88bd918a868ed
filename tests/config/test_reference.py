from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core import RFDETRPico
from rfdetr_core.api.stubs import generated
from rfdetr_core.base.code import ROOT
from rfdetr_core.base.errors import UserError
from rfdetr_core.commands import answers
from rfdetr_core.config.reference import markdown
from rfdetr_core.config.settings import ABSENT, DIFFERENT, SECTIONS, check_params


def test_the_page_is_what_the_configs_say() -> None:
    page = (ROOT / "docs" / "parameters.md").read_text()
    assert page == markdown(), "python -m rfdetr_core.config.reference"


def test_the_types_of_the_api_and_the_schemas_of_answers_are_what_the_code_says() -> None:
    for path, text in (generated() | answers.generated()).items():
        assert (ROOT / path).read_text() == text, "python -m rfdetr_core.config.reference"


def test_absent_options_are_not_fields_and_differing_defaults_are() -> None:
    for section, keys in ABSENT.items():
        assert not keys.keys() & SECTIONS[section].model_fields.keys()
    for name in DIFFERENT:
        section, _, key = name.partition(".")
        assert key in SECTIONS[section].model_fields


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {fp16_eval: true}", "train.fp16_eval is not an option here: it has no effect upstream"),
        ("train: {num_workers: 2}", "train.num_workers belongs to the section runtime"),
        ("model: {amp: true}", "model.amp is not an option here: renamed to train.amp_dtype"),
        ("train: {epoch: 3}", r"Did you mean epochs\?"),
        ("model: {num_channels: 4}", "num_channels"),
        ("train: {resume: a.pth}\nmodel: {pretrain_weights: b.pth}", "Remove one"),
        ("model: {variant: nano}\ntrain: {mask_ce_loss_coef: 1.0}", "finds no masks"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        check_params(tmp_path / "params.yaml")


def test_train_refuses_absent_and_contradicting_options(tmp_path: Path) -> None:
    model = RFDETRPico(resolution=64, num_queries=4, group_detr=1, device="cpu")
    for settings, message in (
        ({"fp16_eval": True}, "fp16_eval is not an option here"),
        ({"epoch": 1}, "Did you mean epochs"),
        ({"mask_dice_loss_coef": 1.0}, "finds no masks"),
    ):
        with pytest.raises(UserError, match=message):
            model.train(dataset_dir=tmp_path / "none", output_dir=tmp_path / "output", **settings)
    assert not (tmp_path / "output").exists()
