from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_core.training.run import TrainingFiles
from tests.training.tiny import make_files, train


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> TrainingFiles:
    """The tiny dataset."""
    return make_files(tmp_path_factory.mktemp("tiny dataset"))


@pytest.fixture(scope="session")
def uninterrupted(where: TrainingFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outs of a plain training of three epochs."""
    return train(where, tmp_path_factory.mktemp("uninterrupted") / "output")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run folder that does not exist yet."""
    return tmp_path / "output"
