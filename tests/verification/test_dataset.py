"""The local dataset compared with its manifests: forged pixels are reported, another decoder is not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfdetr_core.base import files
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.ingest.convert import convert_dataset
from rfdetr_core.ingest.validate import validate_dataset
from rfdetr_core.lineage.lock import Lock
from rfdetr_core.verification.contents import Contents
from rfdetr_core.verification.dataset import check_dataset
from rfdetr_core.verification.lock import Pipeline
from rfdetr_core.verification.report import Report
from tests.ingest.samples import make_coco

LOCK = "requirements/numeric.lock"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project whose dataset was validated and converted."""
    data = make_coco(tmp_path / "data")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("validate: {}\n")
    validate_dataset(data, ValidateConfig(), tmp_path / "reports" / "dataset", tmp_path / "manifest")
    convert_dataset(data, ValidateConfig(), tmp_path / "manifest", tmp_path / "annotations")
    (tmp_path / "requirements").mkdir()
    (tmp_path / LOCK).write_text("pillow==0.1\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "data"], cwd=tmp_path, check=True)
    return tmp_path


def check(root: Path) -> Report:
    """Check the dataset with a dvc.lock that matches the manifests."""
    outs = [{"path": f"manifest/{split}.json", "md5": files.md5_file(root / "manifest" / f"{split}.json")}
            for split in ("train", "valid", "test")]  # fmt: skip
    lock = Lock.parse(json.dumps({"schema": "2.0", "stages": {"validate": {"cmd": "python", "outs": outs}}}).encode())
    report = Report()
    check_dataset(report, Contents(root), Pipeline({}, lock), "data")
    return report


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "manifest" / "train.json"
    rows = files.read_json(path)
    for row in rows:
        change(row)
    path.write_bytes(b"[\n" + b",\n".join(map(files.canonical_json, rows)) + b"\n]\n")


def same_decoder(root: Path) -> None:
    (root / LOCK).unlink()


def test_pixels_that_are_not_those_of_the_image_are_named(root: Path) -> None:
    same_decoder(root)
    assert check(root).mismatches == {}
    edit(root, lambda row: row.update(pixels="0" * 64))
    named = {subject for subject, _, _ in check(root).mismatches}
    assert "pixels of train/train_1.png in manifest/train.json" in named


def test_a_dataset_in_the_verified_repository_raises_no_warning(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not root.is_relative_to(Path.cwd())  # as with verify --repo
    check(root)
    assert capsys.readouterr().err == ""


def test_a_manifest_that_is_older_than_pixel_digests_raises_no_alarm(root: Path) -> None:
    same_decoder(root)
    edit(root, lambda row: row.pop("pixels"))
    report = check(root)
    assert (report.mismatches, report.unchecked) == ({}, {})


def test_pixels_of_another_decoder_are_not_compared_and_the_report_says_so(root: Path) -> None:
    edit(root, lambda row: row.update(pixels="0" * 64))
    report = check(root)
    assert report.mismatches == {}
    assert "Pillow" in report.unchecked["pixels of images"]
    edit(root, lambda row: row.update(sha256="0" * 64))
    assert check(root).mismatches


def test_pixels_of_a_missing_image_are_taken_from_the_manifest(root: Path) -> None:
    same_decoder(root)
    (root / "data" / "train" / "train_1.png").unlink()
    report = check(root)
    assert report.mismatches == {}
    assert list(report.unchecked) == ["image data/train/train_1.png"]
