from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core.base.paths import ProjectPaths
from tests.training.tiny import make_files, train


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> ProjectPaths:
    """The tiny dataset."""
    return make_files(tmp_path_factory.mktemp("tiny dataset"))


@pytest.fixture(scope="session")
def uninterrupted(where: ProjectPaths, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outs of an uninterrupted training of three epochs."""
    return train(where, tmp_path_factory.mktemp("uninterrupted") / "output")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "output"
