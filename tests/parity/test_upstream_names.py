"""The table of upstream's public names agrees with the installed package, in both directions."""

from __future__ import annotations

import importlib
import inspect
from collections import defaultdict
from pkgutil import resolve_name
from typing import Any

import pytest

import rfdetr_core
from rfdetr_core import RFDETR, RFDETRPico
from rfdetr_core.api.configs import ModelSettings, TrainSettings
from rfdetr_core.checkpoint.loading import COCO_CLASS_NAMES, COCO_CLASSES
from rfdetr_core.config.settings import ABSENT
from rfdetr_core.config.upstream import API
from rfdetr_core.config.upstream_modules import INNER
from rfdetr_core.export.model import ABSENT as ABSENT_OF_EXPORT
from tests.parity.upstream_names import public_names

coco_classes = pytest.importorskip("rfdetr.assets.coco_classes")
FIELDS = ("ModelConfig", "TrainConfig", "SegmentationTrainConfig", "KeypointTrainConfig")
ROWS = (*API, *INNER)


@pytest.fixture(scope="module")
def upstream() -> dict[str, set[str]]:
    return public_names()


@pytest.fixture(scope="module")
def model() -> RFDETR:
    pico: RFDETR = RFDETRPico(resolution=64, num_queries=4, group_detr=1, device="cpu")
    return pico


def test_every_public_name_has_one_answer_and_every_answer_a_name(upstream: dict[str, set[str]]) -> None:
    answered = defaultdict[str, list[str]](list)
    for row in ROWS:
        for owner in row.owners.split():
            answered[owner] += row.names.split()
    answered["RFDETR.export()"] += upstream["RFDETR.export()"] & ABSENT_OF_EXPORT.keys()
    expected = {owner: sorted(names) for owner, names in upstream.items() if owner not in FIELDS}
    assert {owner: sorted(names) for owner, names in answered.items()} == expected


def test_every_field_of_upstreams_configs_is_here_or_has_a_reason(upstream: dict[str, set[str]]) -> None:
    for owner in FIELDS:
        section, config = ("model", ModelSettings) if owner == "ModelConfig" else ("train", TrainSettings)
        assert upstream[owner] <= config.model_fields.keys() | ABSENT[section].keys(), owner


def test_the_list_has_what_users_of_upstream_import(upstream: dict[str, set[str]]) -> None:
    """Reading upstream's source gives the same names as importing it, for modules that can be imported here."""
    for owner in ("rfdetr", "rfdetr.detr", "rfdetr.config", "rfdetr.variants", "rfdetr.visualize.training"):
        module = importlib.import_module(owner)
        assert upstream[owner] >= {*getattr(module, "__all__", ())}
        lazy = {"RFDETRXLarge", "RFDETR2XLarge", "RFDETRModelModule", "RFDETRDataModule", "build_trainer"}
        assert not [name for name in upstream[owner] - lazy if not hasattr(module, name)], owner
    assert {"train", "size", "callbacks"} <= upstream["RFDETR"]
    assert (
        inspect.signature(importlib.import_module("rfdetr.detr").RFDETR.predict).parameters.keys()
        - {
            "self",
            "kwargs",
        }
        == upstream["RFDETR.predict()"]
    )


@pytest.mark.parametrize("row", [row for row in ROWS if row.equivalent], ids=lambda row: row.names[:40])
def test_each_name_of_ours_is_where_the_table_says(row: Any, model: RFDETR) -> None:
    for name in row.names.split():
        path = row.path(name)
        if path.startswith("rfdetr_core.RFDETR."):
            assert hasattr(model, path.removeprefix("rfdetr_core.RFDETR.")), path
        else:
            assert resolve_name(path) is not None


@pytest.mark.parametrize("call", ["RFDETR.predict()", "RFDETR.evaluate()", "RFDETR.inference()", "from_checkpoint()"])
def test_supported_arguments_are_accepted_and_others_refused(call: str) -> None:
    function = getattr(RFDETR, call.removeprefix("RFDETR.").removesuffix("()"))
    own = inspect.signature(function).parameters
    for row in API:
        if call in row.owners.split():
            for name in row.names.split():
                assert (name in own) == bool(row.equivalent), name


@pytest.mark.parametrize("variant", [row for row in API if row.owners.endswith("rfdetr.variants") and row.equivalent])
def test_the_published_classes_are_at_the_top_level(variant: Any) -> None:
    assert {*variant.names.split()} < {*rfdetr_core.__all__}


def test_the_names_of_cocos_classes_are_upstreams() -> None:
    assert coco_classes.COCO_CLASSES == COCO_CLASSES
    assert coco_classes.COCO_CLASS_NAMES == COCO_CLASS_NAMES
