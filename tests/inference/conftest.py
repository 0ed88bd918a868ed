from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core.inference.predictor import Predictor
from tests.evaluation.scene import Scene, make_scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), segmentation=True)


@pytest.fixture(scope="module")
def predictor(scene: Scene) -> Predictor:
    return scene.predictor()


@pytest.fixture
def path(scene: Scene) -> Path:
    return scene.image(scene.annotations()["images"][0])
