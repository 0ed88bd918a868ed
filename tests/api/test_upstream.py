"""export_for_roboflow and deploy_to_roboflow; in tests/parity, upstream reads the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import rfdetr_core
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import make_checkpoint, write_checkpoint
from rfdetr_core.checkpoint.loading import COCO_CLASS_NAMES, COCO_CLASSES
from rfdetr_core.model.config import VARIANTS

SMALL = {"resolution": 64, "num_queries": 4, "group_detr": 1, "device": "cpu"}


def small_nano(folder: Path, names: list[str]) -> Any:
    """RFDETRNano with random weights and these classes, read from a file."""
    folder.mkdir(exist_ok=True)
    model = rfdetr_core.RFDETRNano(**SMALL, num_classes=len(names) if len(names) != 80 else 90, pretrain_weights=None)
    checkpoint = make_checkpoint(model.architecture, model.model.state_dict(), class_names=names, args={})
    write_checkpoint(folder / "nano.pth", checkpoint)
    return rfdetr_core.load(folder / "nano.pth", device="cpu")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return small_nano(tmp_path_factory.mktemp("nano"), ["tree", "Straße"])


def test_the_bundle_has_weights_and_names_and_no_folder_of_this_machine(nano: Any, tmp_path: Path) -> None:
    nano.export_for_roboflow(tmp_path / "bundle")
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == {"weights.pt", "class_names.txt"}
    assert (tmp_path / "bundle" / "class_names.txt").read_bytes() == "tree\nStraße".encode()
    content = torch.load(tmp_path / "bundle" / "weights.pt", weights_only=True)
    args = content["args"]
    assert (args["class_names"], args["num_classes"], args["resolution"]) == (["tree", "Straße"], 2, 64)
    assert (args["segmentation_head"], args["patch_size"]) == (False, VARIANTS["nano"].patch_size)
    assert (args["dataset_dir"], args["output_dir"], args["resume"]) == (None, "output", "")
    reloaded = rfdetr_core.load(tmp_path / "bundle" / "weights.pt", device="cpu")
    assert reloaded.class_names == nano.class_names
    state = reloaded.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in nano.model.state_dict().items())


def test_equal_models_give_equal_bundles(nano: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        nano.export_for_roboflow(tmp_path / name)
    assert (tmp_path / "a" / "weights.pt").read_bytes() == (tmp_path / "b" / "weights.pt").read_bytes()


def test_cocos_names_are_the_80_that_upstream_writes(tmp_path: Path) -> None:
    small_nano(tmp_path / "coco", COCO_CLASS_NAMES).export_for_roboflow(tmp_path)
    assert (tmp_path / "class_names.txt").read_text().splitlines() == COCO_CLASS_NAMES


def test_a_bundle_that_roboflow_cannot_use_is_refused(
    nano: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="Roboflow does not know RFDETRPico"):
        rfdetr_core.RFDETRPico(**SMALL).export_for_roboflow(tmp_path)
    with pytest.raises(UserError, match=r"the name 'a\\nb' is not one line"):
        small_nano(tmp_path / "odd", ["a\nb"]).export_for_roboflow(tmp_path)
    with pytest.raises(UserError, match="output_dir is ''"):
        nano.export_for_roboflow("")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: x, outs: [output]}}\n")
    with pytest.raises(UserError, match="keeps its results"):
        nano.export_for_roboflow("output")
    assert not (tmp_path / "weights.pt").exists()
    assert not (tmp_path / "output").exists()


def test_deploy_names_the_two_steps(nano: Any) -> None:
    with pytest.raises(UserError, match=r'export_for_roboflow\("bundle"\)(.|\n)*model_type="rfdetr-nano"'):
        nano.deploy_to_roboflow("workspace", project_id="project", version=1, api_key="key", size="rfdetr-nano")


def test_cocos_classes_are_numbered_as_in_its_annotations() -> None:
    assert rfdetr_core.COCO_CLASSES is COCO_CLASSES
    assert (COCO_CLASSES[1], COCO_CLASSES[90], 12 in COCO_CLASSES) == ("person", "toothbrush", False)
    assert [*COCO_CLASSES] == sorted(COCO_CLASSES)
    assert [*COCO_CLASSES.values()] == rfdetr_core.COCO_CLASS_NAMES
    assert len(COCO_CLASS_NAMES) == 80
