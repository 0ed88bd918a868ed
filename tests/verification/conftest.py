from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.audit.repository import Images, Repository

IMAGES: Images = {"train": {"train/a.jpg": "a"}, "valid": {"valid/b.jpg": "b"}, "test": {"test/c.jpg": "c"}}


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "clone")
    repository.train(1, IMAGES, parent="0" * 64)
    repository.commit("Train")
    return repository


@pytest.fixture
def model(repository: Repository, tmp_path: Path) -> Path:
    """The model, away from the project and under another name."""
    return Path(shutil.move(repository.folder / "output" / "checkpoint_best_total.pth", tmp_path / "model.pth"))
