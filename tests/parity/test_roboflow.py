"""Upstream reads the files that export_for_roboflow writes, and writes equal files itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import rfdetr_core
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint

rfdetr = pytest.importorskip("rfdetr")
NAMES = ["tree", "car", "house"]


@pytest.mark.parametrize(("name", "kind"), [("RFDETRNano", False), ("RFDETRSegNano", True)])
def test_upstream_reads_the_bundle_and_writes_an_equal_one(name: str, kind: bool, tmp_path: Path) -> None:
    small = {"resolution": 96 if kind else 64, "num_queries": 10, "group_detr": 2, "device": "cpu"}
    blank = getattr(rfdetr_core, name)(**small, num_classes=len(NAMES), pretrain_weights=None)
    checkpoint = make_checkpoint(blank.architecture, blank.model.state_dict(), class_names=NAMES, args={})
    write_checkpoint(tmp_path / "mine.pth", checkpoint)
    rfdetr_core.load(tmp_path / "mine.pth", device="cpu").export_for_roboflow(tmp_path / "ours")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = rfdetr.RFDETR.from_checkpoint(str(tmp_path / "ours" / "weights.pt"), device="cpu")
        assert type(theirs).__name__ == name
        assert theirs.class_names == NAMES
        theirs.export_for_roboflow(tmp_path / "theirs")
    names = [(tmp_path / side / "class_names.txt").read_bytes() for side in ("ours", "theirs")]
    assert names[0] == names[1]
    ours = torch.load(tmp_path / "ours" / "weights.pt", weights_only=True)
    expected: dict[str, Any] = torch.load(tmp_path / "theirs" / "weights.pt", weights_only=False)
    assert ours["model"].keys() == expected["model"].keys()
    assert all(torch.equal(tensor, ours["model"][key]) for key, tensor in expected["model"].items())
    args = vars(expected["args"])
    assert ours["args"]["segmentation_head"] is kind
    different = {key for key in ours["args"].keys() & args.keys() if ours["args"][key] != args[key]}
    assert different <= {"pretrain_weights"}  # the file from which upstream's model was built
    of_the_model = type(theirs.model_config).model_fields.keys() & args.keys()
    assert of_the_model <= ours["args"].keys()
