"""Upstream's training package. It imports a COCO scorer that need not be installed, so a stand-in replaces it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from unittest import mock

import pytest

pytest.importorskip("rfdetr", reason="parity needs upstream: pip install rfdetr==1.11.2")

_STAND_INS: list[str] = []
if importlib.util.find_spec("faster_coco_eval") is None:
    _STAND_INS = ["faster_coco_eval"] + [f"faster_coco_eval.core{end}" for end in ("", ".mask", ".faster_eval_api")]
    sys.modules |= {name: mock.MagicMock() for name in _STAND_INS}

module_data = importlib.import_module("rfdetr.training.module_data")
module_model = importlib.import_module("rfdetr.training.module_model")
param_groups = importlib.import_module("rfdetr.training.param_groups")
trainer = importlib.import_module("rfdetr.training.trainer")
ema = importlib.import_module("rfdetr.training.callbacks.ema")

for _name in _STAND_INS:
    del sys.modules[_name]
