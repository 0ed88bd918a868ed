from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rfdetr_core.base import files
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.cli import main
from rfdetr_core.config.preview import SmallBoxes
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.model.config import VARIANTS
from rfdetr_core.training.inputs import training_data
from tests.data.canonical import several, write_split

PARAMS = """
data: {dir: dataset}
model: {variant: %s, resolution: %d}
train: {batch_size: 4, multi_scale: %s, grad_accum_steps: 2}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_split(tmp_path, several(7, (90, 70)), "train")
    write_split(tmp_path, [(f"valid/{k}.png", (90, 70), []) for k in range(2)], "valid")
    names = [{"id": k, "index": k, "name": f"class {k}"} for k in range(3)]
    files.write_json(tmp_path / "annotations" / "classes.json", names)
    (tmp_path / "params.yaml").write_text(PARAMS % ("pico", 64, "off"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pages(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.png"))}


def test_pages_are_a_pure_function_of_params_and_epoch(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, epoch in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(epoch)
        main(["preview", "--count", "6", "--out", out, "--epoch", str(epoch)])
    first, second, third = (pages(project / name) for name in "abc")
    assert list(first) == ["train_epoch001_batch000.png", "train_epoch001_batch001.png"]
    assert first == second
    assert not set(first.values()) & set(third.values())
    printed = capsys.readouterr().out
    assert "4 images at 64 x 64" in printed
    assert "2 images at 64 x 64" in printed
    main(["preview", "--count", "1", "--out", "a"])
    assert list(pages(project / "a")) == ["train_epoch001_batch000.png"]  # no page of a longer preview is left


def test_a_page_shows_the_pixels_that_the_model_sees(project: Path) -> None:
    """The page of an image without objects: each pixel of the loader is a square of 8 x 8."""
    main(["preview", "--split", "valid", "--out", "made"])
    (name,) = pages(project / "made")
    with Image.open(project / "made" / name) as page:
        cell = np.asarray(page)[:512, :512]
    from rfdetr_core.model.config import ModelConfig
    from rfdetr_core.training.config import RuntimeConfig, TrainConfig

    architecture = ModelConfig(resolution=64).architecture(3)
    data = training_data(
        ProjectPaths(Path("dataset")), TrainConfig(), RuntimeConfig(num_workers=0, pin_memory=False), architecture, 64
    )
    expected = next(iter(data.val_dataloader())).images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(cell, expected.repeat(8, axis=0).repeat(8, axis=1))


@pytest.mark.parametrize("variant", ["pico", pytest.param("seg-pico", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", ["per-batch", "per-sample"])
def test_images_come_at_the_sizes_of_multi_scale_training(
    project: Path, capsys: pytest.CaptureFixture[str], variant: str, mode: str
) -> None:
    resolution = VARIANTS[variant].stride * 4
    (project / "params.yaml").write_text(PARAMS % (variant, resolution, mode))
    seen = set()
    for epoch in (1, 2, 3):
        main(["preview", "--count", "5", "--epoch", str(epoch)])
        seen |= {line.rsplit(" ", 1)[1] for line in capsys.readouterr().out.splitlines() if " images at " in line}
    assert len(seen) > 1
    assert all(int(side) % VARIANTS[variant].stride == 0 for side in seen)


def test_small_boxes_are_counted_by_class_and_a_resolution_makes_them_large_enough(project: Path) -> None:
    samples = read_samples(project / "annotations" / "train.json", project / "manifest" / "train.json")
    architecture = VARIANTS["nano"]
    small = SmallBoxes.measure(samples, ["a", "b", "c"], architecture)
    sides = [
        min(width * architecture.resolution / sample.width, height * architecture.resolution / sample.height)
        for sample in samples
        for _, _, width, height in sample.boxes
    ]
    assert small.sides.tolist() == pytest.approx(sides)
    assert small.describe("train").startswith(f"train: none of {len(sides)} boxes")


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_the_resolution_for_a_share_of_the_boxes_is_the_least(share: float) -> None:
    widths = np.array([3.0, 5, 8, 10, 20, 200])
    boxes = np.stack([widths * 0, widths * 0, widths, widths + 1], axis=1)
    count = len(widths)
    crowd = np.zeros(count, dtype=np.bool_)
    sample = Sample("a.png", "", 384, 384, 1, np.zeros(count, dtype=np.int64), boxes, (None,) * count, crowd)
    architecture = VARIANTS["nano"]
    small = SmallBoxes.measure([sample], ["tree"], architecture)
    assert "4 of 6 boxes (66.7%) are smaller than a patch (16 pixels) at 384 x 384" in small.describe("train")
    under = widths[widths < architecture.patch_size]
    lifted = {
        side: float((under * side / 384 >= architecture.patch_size).mean())
        for side in range(32, 4000, architecture.stride)
    }
    assert small.resolution_for(share) == min(side for side, part in lifted.items() if part >= share)


def test_a_missing_file_is_one_message(project: Path) -> None:
    (project / "annotations" / "train.json").unlink()
    with pytest.raises(SystemExit, match=r"annotations/train\.json does not exist.*dvc repro"):
        main(["preview"])
    with pytest.raises(SystemExit, match=r"none\.yaml does not exist"):
        main(["preview", "--params", "none.yaml"])
    assert not (project / "reports").exists()
