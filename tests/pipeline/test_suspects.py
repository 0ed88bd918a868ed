"""Suspects of a real project, and the loop of docs/suspects.md, which checks each image by models not trained on it."""

from __future__ import annotations

import re
import sys

import pandas as pd
import pytest

from rfdetr_core.base import files
from rfdetr_core.base.code import ROOT
from tests.pipeline.project import Project, make_dataset

pytestmark = pytest.mark.slow
MODEL = "output/checkpoint_best_total.pth"
COMMAND = (sys.executable, "-m", "rfdetr_core", "suspects")


@pytest.fixture(scope="module")
def trained(reproduced: Project) -> Project:
    return reproduced


def test_images_are_marked_as_trained_chosen_or_unseen(project: Project) -> None:
    for split, use, note in (
        ("train", {"trained"}, "trained on 4 of these images"),
        ("valid", {"chosen"}, ""),
        ("test", {""}, ""),
    ):
        done = project.run(*COMMAND, MODEL, "--split", split)
        table = pd.read_csv(project.folder / "reports" / "suspects" / f"{split}.csv", keep_default_na=False)
        assert set(table.seen) == use
        assert note in done.stdout
        assert "not known" not in done.stdout
    evaluated = pd.read_csv(project.folder / "reports" / "evaluate" / "suspects.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(table.drop(columns="seen"), evaluated)
    # The command's results do not belong to the pipeline's.
    assert "suspects" not in project.run("git", "status", "--porcelain", "--untracked-files=all").stdout
    assert project.repro() == []


def test_the_loop_of_the_page_judges_images_that_the_model_did_not_see(project: Project) -> None:
    project.commit("A model")
    page = (ROOT / "docs" / "suspects.md").read_text()
    loop, merge = (re.findall(rf"^```{kind}\n(.*?)^```$", page, re.M | re.S)[0] for kind in ("sh", "python"))
    make_dataset(project.folder / "data" / "mine", {"train": 10, "valid": 2, "test": 2}, seed=1)
    loop = loop.replace("0 1 2 3 4", "0 1").replace("--page", "").replace("dvc exp run", "dvc exp run -q")
    before = {path: files.sha256_file(project.folder / path) for path in ("params.yaml", "dvc.lock", MODEL)}
    done = project.run("bash", "-euc", loop)
    tables = [pd.read_csv(project.folder / "reports" / "suspects" / f"seed-{seed}.csv") for seed in (0, 1)]
    assert all(table.seen.isna().all() and len(table) for table in tables)
    assert set(tables[0].image) != set(tables[1].image)
    assert "note:" not in done.stdout
    assert before == {path: files.sha256_file(project.folder / path) for path in before}
    assert "models" in project.run(sys.executable, "-c", merge).stdout
