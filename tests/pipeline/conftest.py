"""Fixtures: one finished pipeline run, shared by all modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import STAGES
from tests.pipeline.project import Project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The tiny project after its first `dvc repro`, before the results are committed. Tests work on a copy."""
    project = Project.create(tmp_path_factory.mktemp("reproduced") / "project")
    assert project.repro() == STAGES
    return project


@pytest.fixture
def project(trained: Project, tmp_path: Path) -> Project:
    """A copy of the module's `trained` project, which the test may change."""
    return trained.copy(tmp_path / "copy")
