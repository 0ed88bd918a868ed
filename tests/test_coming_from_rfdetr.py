"""Runs the first table and every snippet of docs/coming-from-rfdetr.md; only epochs and the address are changed.

Nano and SegNano are small here; their published files have random weights.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import supervision
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelSummary

import rfdetr_core
from rfdetr_core.base import files
from rfdetr_core.checkpoint import published
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.model.detector import build_detector
from tests.coming_from import SHARED, SNIPPETS, rows
from tests.pipeline.project import CHECKPOINTS, make_dataset
from tests.secure import secure_server

pytestmark = pytest.mark.slow
# The sizes of Pico. It has the stride of the published variants, so the resolutions on the page are valid.
SMALL = {"encoder_width": 96, "encoder_blocks": 4, "encoder_heads": 3, "feature_indexes": (2, 4), "width": 128}
SMALL |= {"self_heads": 4, "cross_heads": 8, "feedforward_width": 256, "decoder_layers": 2, "queries": 20, "groups": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with the files that the page uses: dataset, photo.jpg, and output with a finished run."""
    folder = tmp_path_factory.mktemp("coming")
    make_dataset(folder / "dataset", {"train": 4, "valid": 2, "test": 2})
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "photo.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RF_HOME", str(folder / "cache"))
        patch.chdir(folder)
        for name in ("nano", "seg-nano"):
            patch.setitem(VARIANTS, name, replace(VARIANTS[name], resolution=96, position_grid=0, **SMALL))
            publish(VARIANTS[name], patch)
        run('model = RFDETRNano()\nmodel.train(dataset_dir="dataset", epochs=1)')
        shutil.copy("output/checkpoint_best_total.pth", "old.pth")
        yield folder


def publish(architecture: Any, patch: pytest.MonkeyPatch) -> None:
    """Put a file of random weights into the cache, and set its digest as the published one."""
    torch.manual_seed(0)
    detector, path = build_detector(architecture), published.cache_folder() / str(architecture.weights_file)
    path.parent.mkdir(exist_ok=True)
    write_checkpoint(path, make_checkpoint(architecture, detector.state_dict(), class_names=[], args={}))
    entry = replace(published.PUBLISHED[path.name], md5=files.md5_file(path))
    patch.setitem(published.PUBLISHED, path.name, entry)


def run(code: str, **names: Any) -> dict[str, Any]:
    """Run code of the page. A new training has one epoch, a resumed training two."""
    code = re.sub(r"epochs=\d+", "epochs=2" if "resume" in code or "ckpt_path" in code else "epochs=1", code)
    space: dict[str, Any] = {name: getattr(rfdetr_core, name) for name in rfdetr_core.__all__ if name in code} | names
    exec(compile(code, "docs/coming-from-rfdetr.md", "exec"), space)
    return space


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder; it is the current folder."""
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here", ignore=shutil.ignore_patterns("cache")))
    return Path.cwd()


@pytest.mark.parametrize("ours", [ours for _, ours in rows()])
def test_a_row_runs(here: Path, ours: str) -> None:
    names: dict[str, Any] = run(SHARED)
    if "trainer" in ours:
        names |= parts()
    run(ours, **names)


def parts() -> dict[str, Any]:
    """The names that rows about the custom training API use."""
    space = run(SNIPPETS[-1][1].replace("trainer.fit(module, data)", ""))
    return space | {"config": space["train_config"], "mine": ModelSummary()}


@pytest.mark.parametrize("code", [code for _, code in SNIPPETS], ids=[title for title, _ in SNIPPETS])
def test_a_snippet_runs(here: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with secure_server(here, monkeypatch) as server:
        photo = server.at("/photo.jpg", content=Path("photo.jpg").read_bytes())
        space = run(code.replace("https://example.com/photo.jpg", photo))
    if "predict(" in code:
        results = [space[name] for name in ("detections", "first", "second") if name in space]
        assert len(results) == (2 if "first, second =" in code else 1)
        for detections in results:
            assert isinstance(detections, supervision.Detections)
            assert detections.data["source_shape"].tolist() == [[48, 64]] * len(detections)
            assert ("source_image" in detections.metadata) == ("include_source_image=False" not in code)
    for folder in re.findall(r'output_dir="(runs/\w+|output)"', code):
        if "fit(" in code or "train(" in code:
            assert {path.name for path in Path(folder).iterdir()} >= CHECKPOINTS


def test_there_are_ten_snippets() -> None:
    assert len(SNIPPETS) == 10
