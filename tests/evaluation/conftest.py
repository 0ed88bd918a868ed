from __future__ import annotations

import pytest

from tests.evaluation.scene import Scene, make_scene


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="session")
def mask_scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("masks"), segmentation=True)
