from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from rfdetr_core.export.config import ExportConfig, Format
from rfdetr_core.export.onnx_file import OnnxDraft
from rfdetr_core.export.openvino_file import OpenVinoDraft
from rfdetr_core.export.run import Source, export_draft
from rfdetr_core.inference.predictor import Predictor
from tests.export.small import make_predictor


@pytest.fixture(scope="session")
def predictors(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Predictor]:
    """The predictor of a small variant's checkpoint, by the variant's name."""
    return cache(lambda variant: make_predictor(tmp_path_factory.mktemp("models"), variant))


@pytest.fixture(scope="session")
def sources(predictors: Callable[[str], Predictor]) -> Callable[[str], Source]:
    """A small variant's checkpoint, by the variant's name."""

    def read(variant: str) -> Source:
        path = predictors(variant).source
        assert path is not None
        return Source.read(path)

    return cache(read)


@pytest.fixture(scope="session")
def drafts(sources: Callable[[str], Source]) -> Callable[..., OnnxDraft | OpenVinoDraft]:
    """The model of a small variant in a format. settings: keys of the section `export`. Each model is made once."""

    @cache
    def make(variant: str, kind: Format = "onnx", **settings: Any) -> OnnxDraft | OpenVinoDraft:
        return export_draft(sources(variant), ExportConfig(**settings), kind)

    return make
