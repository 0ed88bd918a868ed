"""Checkpoints are interchangeable: upstream loads our files, we load all layouts of upstream, with equal outputs."""

from __future__ import annotations

import argparse
import shutil
import warnings
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rfdetr_core import RFDETRNano, load
from rfdetr_core.checkpoint.files import make_checkpoint, model_config_of, read_checkpoint, write_checkpoint
from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours, upstream_weights
from rfdetr_core.checkpoint.loading import COCO_NAMES, architecture_of, build_from_checkpoint, class_names_of
from rfdetr_core.checkpoint.published import PUBLISHED as PUBLISHED_FILES
from rfdetr_core.checkpoint.published import cache_folder
from rfdetr_core.model.config import VARIANTS, Architecture, resized
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.model.postprocess import postprocess
from tests.parity.reference import PUBLISHED, build_upstream, model_config, nested, published, random_weights

import rfdetr  # isort: skip
from rfdetr.assets.coco_classes import COCO_CLASSES  # isort: skip
from rfdetr.assets.model_weights import ModelWeights, get_model_cache_dir  # isort: skip
from rfdetr.config import TrainConfig  # isort: skip
from rfdetr.utilities.state_dict import _make_fit_loop_state, strip_checkpoint  # isort: skip

CLASSES = ["tree", "car", "house"]
RESOLUTION = 64
LAYOUTS = ["published", "best", "total", "last", "compiled", "legacy", "converted"]


@pytest.mark.parametrize("variant", published("nano", "seg-nano"))
def test_upstream_loads_our_file_of_every_variant_and_predicts_the_same(variant: str, tmp_path: Path) -> None:
    # A smaller input and fewer queries save minutes, and show that both numbers are read from the file.
    side = -(-112 // VARIANTS[variant].stride) * VARIANTS[variant].stride
    changes = resized(VARIANTS[variant], side) | {"queries": 20, "classes": len(CLASSES)}
    architecture = replace(VARIANTS[variant], **changes)  # type: ignore[arg-type]
    detector = _randomised(build_detector(architecture))
    path = tmp_path / "checkpoint_best_total.pth"
    checkpoint = make_checkpoint(architecture, detector.state_dict(), class_names=CLASSES, args={"epochs": 1})
    write_checkpoint(path, replace(checkpoint, best_total_source="ema", threshold=0.25, lineage={"inputs": []}))

    theirs = _from_checkpoint(path)
    assert type(theirs).__name__ == architecture.name
    assert theirs.model_config.resolution == side
    assert theirs.class_names == CLASSES
    ours = upstream_weights(detector.state_dict())
    loaded = theirs.model.model.state_dict()
    assert ours.keys() == loaded.keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in ours.items())
    _assert_equal_predictions(detector, theirs, architecture)


def test_upstreams_constructor_loads_our_file(tmp_path: Path) -> None:
    architecture = replace(VARIANTS["nano"], classes=len(CLASSES))
    detector = _randomised(build_detector(architecture))
    path = tmp_path / "mine.pth"
    write_checkpoint(path, make_checkpoint(architecture, detector.state_dict(), class_names=CLASSES, args={}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = rfdetr.RFDETRNano(pretrain_weights=str(path), device="cpu")
    assert theirs.model_config.num_classes == len(CLASSES)
    assert theirs.class_names == CLASSES
    _assert_equal_predictions(detector, theirs, architecture)


@pytest.mark.parametrize("variant", ["pico", "seg-pico"])
def test_upstream_has_no_class_for_our_variants_and_names_them(variant: str, tmp_path: Path) -> None:
    architecture = VARIANTS[variant]
    weights = build_detector(architecture).state_dict()
    path = tmp_path / "checkpoint_best_total.pth"
    write_checkpoint(path, make_checkpoint(architecture, weights, class_names=CLASSES, args={}))
    with pytest.raises(ValueError, match=f"Could not infer model class.*{architecture.name}"):
        _from_checkpoint(path)
    assert build_from_checkpoint(path).architecture == architecture


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, dict[str, Any]]:
    """Upstream's Nano at a small resolution, and its config as a training would save it."""
    numbers = {"resolution": RESOLUTION, "num_queries": 20, "num_select": 20, "group_detr": 3, "num_classes": 3}
    model = build_upstream("nano", **numbers)
    model.load_state_dict(random_weights(model))
    config = model_config("nano", **numbers).model_dump() | {"model_name": "RFDETRNano"}
    return model.eval(), config


def _content(layout: str, model: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Any]:
    """The content of a file as upstream's version 1.11.2 or an older version writes it."""
    args = TrainConfig(dataset_dir="/data/set", output_dir="/runs/1", class_names=CLASSES).model_dump()
    old = argparse.Namespace(num_classes=3, num_queries=20, group_detr=3, class_names=CLASSES, lr=1e-4)
    if layout == "published":
        return {"model": {name: tensor for name, tensor in model.items() if name != KEYPOINT_MASK}, "args": old}
    if layout == "legacy":
        moved = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in model.items()}
        optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}
        return {"model": model, "ema_model": moved, "optimizer": optimizer, "epoch": 7, "args": old}
    state = OrderedDict((f"model.{name}", tensor) for name, tensor in model.items())
    if layout == "converted":
        return {"state_dict": state, "epoch": 7, "global_step": 0, "hyper_parameters": vars(old)}
    if layout == "compiled":
        state = OrderedDict((name.replace("model.", "model._orig_mod.", 1), tensor) for name, tensor in state.items())
    content = {
        "state_dict": state,
        "epoch": 3,
        "global_step": 8,
        "pytorch-lightning_version": "2.6.6",
        "loops": {"fit_loop": _make_fit_loop_state(3), "validate_loop": {"state_dict": {}}},
        "callbacks": {"RFDETREMACallback": {"average_model_state_dict": {"n_averaged": torch.tensor(8)}}},
        "optimizer_states": [],
        "lr_schedulers": [],
        "args": args,
        "model_name": "RFDETRNano",
        "model_config": config,
        "rfdetr_version": "1.11.2",
    }
    return content if layout in ("last", "compiled") else {"model": model} | content


@pytest.mark.parametrize("layout", LAYOUTS)
def test_upstreams_files_load_here_with_equal_outputs(layout: str, trained: Any, tmp_path: Path) -> None:
    model, config = trained
    path = tmp_path / ("rf-detr-nano.pth" if layout in ("published", "legacy", "converted") else "file.pth")
    torch.save(_content(layout, model.state_dict(), config), path)
    if layout == "total":
        strip_checkpoint(path, extra_metadata={"best_total_source": "regular"})
    checkpoint = read_checkpoint(path)
    architecture = architecture_of(checkpoint)
    assert (architecture.name, architecture.resolution, architecture.position_grid) == ("RFDETRNano", RESOLUTION, 4)
    assert (architecture.queries, architecture.groups, architecture.classes) == (20, 3, 3)
    assert class_names_of(checkpoint) == tuple(CLASSES)
    assert checkpoint.unknown == ()
    assert checkpoint.epoch == {"published": None, "total": None, "legacy": 7, "converted": 7}.get(layout, 3)
    assert checkpoint.best_total_source == ("regular" if layout == "total" else None)
    detector = build_from_checkpoint(path).detector
    images = torch.randn(2, 3, RESOLUTION, RESOLUTION)
    with torch.no_grad():
        ours, theirs = detector(images), model(nested(images))
    assert torch.allclose(ours.logits, theirs["pred_logits"], atol=1e-4)
    assert torch.allclose(ours.boxes, theirs["pred_boxes"], atol=1e-4)


def test_an_old_file_is_read_without_conversion(trained: Any, tmp_path: Path) -> None:
    """By from_checkpoint, and as pretrain_weights. Upstream needs convert_legacy_checkpoint for it."""
    model, config = trained
    torch.save(_content("legacy", model.state_dict(), config), tmp_path / "rf-detr-nano.pth")
    old = shutil.copy(tmp_path / "rf-detr-nano.pth", tmp_path / "old.pth")  # the class needs no published name
    for loaded in (load(tmp_path / "rf-detr-nano.pth", device="cpu"), RFDETRNano(pretrain_weights=old, device="cpu")):
        assert loaded.architecture.resolution == RESOLUTION
        assert (type(loaded), loaded.class_names) == (RFDETRNano, CLASSES)
        ours = upstream_weights(loaded.model.state_dict())
        assert all(torch.equal(tensor, ours[name]) for name, tensor in model.state_dict().items())


def test_upstream_reads_our_copy_of_its_file_unchanged(trained: Any, tmp_path: Path) -> None:
    model, config = trained
    torch.save(_content("best", model.state_dict(), config), tmp_path / "theirs.pth")
    write_checkpoint(tmp_path / "ours.pth", read_checkpoint(tmp_path / "theirs.pth"))
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert content["model_config"] == config
    assert all(torch.equal(tensor, content["model"][name]) for name, tensor in model.state_dict().items())
    assert _from_checkpoint(tmp_path / "ours.pth").class_names == CLASSES


def test_the_model_config_is_upstreams_for_every_variant() -> None:
    for variant in PUBLISHED:
        expected = model_config(variant).model_dump() | {"model_name": VARIANTS[variant].name}
        assert model_config_of(VARIANTS[variant]) == expected, variant


def test_published_files_addresses_sums_and_cache_are_upstreams(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {asset.filename: (asset.url, asset.md5_hash) for asset in ModelWeights if "keypoint" not in asset.filename}
    assert {name: (file.address, file.md5) for name, file in PUBLISHED_FILES.items()} == theirs
    for home in ("", "~/somewhere"):
        monkeypatch.setenv("RF_HOME", home)
        assert str(cache_folder()) == get_model_cache_dir()


def test_the_class_names_of_coco_are_upstreams() -> None:
    assert {number: name for number, name in enumerate(COCO_NAMES) if name} == COCO_CLASSES


def _randomised(detector: Detector) -> Detector:
    """Give norms, biases, scales and small layers random weights too. Large layers already have them."""
    small = {name: tensor for name, tensor in upstream_weights(detector.state_dict()).items() if len(tensor) < 100}
    small |= {name: tensor for name, tensor in upstream_weights(detector.state_dict()).items() if tensor.ndim == 1}
    del small[KEYPOINT_MASK]
    random = {to_ours(name): tensor for name, tensor in random_weights(_Named(small)).items()}
    detector.load_state_dict(detector.state_dict() | random)
    return detector.eval()


class _Named(nn.Module):
    """Passes weights with upstream's names to a function that expects a model."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self.weights


def _from_checkpoint(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rfdetr.RFDETR.from_checkpoint(str(path), device="cpu")


def _assert_equal_predictions(detector: Detector, theirs: Any, architecture: Architecture) -> None:
    """Upstream's `predict` gives the same detections as ours, on an image of the model's size, so without resizing."""
    side = architecture.resolution
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        output = detector(((image - mean[:, None, None]) / std[:, None, None])[None])
    (detections,) = postprocess(output, [(side, side)], architecture.queries)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.predict(image, threshold=0.0)
    assert len(expected) == len(detections.scores) == architecture.queries
    known = expected.class_id < len(CLASSES)  # the last row of the head has no class
    names = np.array(CLASSES, dtype=object)[expected.class_id[known]]
    assert (expected.data["class_name"][known] == names).all()
    # Equal scores may be in another order, so each detection needs a partner of equal pixels, per mille and class.
    theirs_listed = _listed(expected.xyxy, expected.confidence, expected.class_id)
    distances = torch.cdist(
        theirs_listed, _listed(detections.boxes, detections.scores, detections.labels), p=float("inf")
    )
    assert float(distances.min(dim=1).values.max()) < 0.05
    assert float(distances.min(dim=0).values.max()) < 0.05
    if detections.masks is not None:
        nearest = distances.min(dim=1).indices
        differing = torch.as_tensor(expected.mask) != detections.masks[nearest].reshape(expected.mask.shape)
        assert float(differing.float().mean()) < 1e-4


def _listed(boxes: Any, scores: Any, labels: Any) -> Tensor:
    columns = [torch.as_tensor(values).double() for values in (scores * 1000, labels * 1000)]
    return torch.cat([torch.as_tensor(boxes).double(), torch.stack(columns, dim=1)], dim=1)
