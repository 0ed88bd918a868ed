"""ONNX files in ONNX Runtime give the tensors of the detector and the detections of `predict`."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from rfdetr_core.base.code import ROOT
from rfdetr_core.export.graph import resize_as_pillow
from rfdetr_core.export.onnx_file import OPSET, strip
from rfdetr_core.inference.predictor import Predictor
from tests.export.small import PHOTOGRAPHS, as_batch, check_detections, noise, photograph
from tests.export.test_graph import as_planes, by_pillow

pytestmark = pytest.mark.slow
Drafts = Callable[..., Any]
Predictors = Callable[[str], Predictor]
VARIANTS = ("pico", "seg-pico")


def load(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, batch: Any) -> dict[str, np.ndarray[Any, Any]]:
    (only,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {only.name: np.asarray(batch)}), strict=True))


def shape(value: Any) -> list[str | int]:
    return [dimension.dim_param or dimension.dim_value for dimension in value.type.tensor_type.shape.dim]


def check_raw(outputs: dict[str, Any], predictor: Predictor, images: torch.Tensor) -> None:
    with torch.no_grad():
        expected = predictor.detector(images)
    assert [*outputs] == ["dets", "labels", "masks"][: 2 + predictor.architecture.segmentation]  # upstream's order
    assert np.abs(outputs["dets"] - expected.boxes.numpy()).max() < 1e-4
    assert np.abs(outputs["labels"] - expected.logits.numpy()).max() < 1e-3
    if isinstance(expected.masks, torch.Tensor):
        assert np.abs(outputs["masks"] - expected.masks.numpy()).max() < 1e-2 * expected.masks.abs().max()


def images_of(predictor: Predictor, count: int) -> torch.Tensor:
    side = predictor.architecture.resolution
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_raw_file_has_the_detectors_tensors_for_any_number_of_images(
    variant: str, drafts: Drafts, predictors: Predictors
) -> None:
    model, predictor = drafts(variant).model, predictors(variant)
    side = predictor.architecture.resolution
    assert [(tensor.name, shape(tensor)) for tensor in model.graph.input] == [("input", ["batch", 3, side, side])]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    session = load(model)
    for count in (1, 3):
        images = images_of(predictor, count)
        check_raw(run(session, images), predictor, images)


def test_a_raw_file_for_a_fixed_number_of_images_takes_only_this_number(drafts: Drafts, predictors: Predictors) -> None:
    model, predictor = drafts("pico", batch_size=2).model, predictors("pico")
    assert shape(model.graph.input[0])[0] == 2
    session, images = load(model), images_of(predictor, 2)
    check_raw(run(session, images), predictor, images)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        run(session, images_of(predictor, 3))


@pytest.mark.parametrize(("variant", "kind"), [("pico", "uint8"), ("pico", "float"), ("seg-pico", "uint8")])
def test_a_complete_file_has_the_detections_of_predict(
    variant: str, kind: Literal["uint8", "float"], drafts: Drafts, predictors: Predictors
) -> None:
    model, predictor = drafts(variant, postprocess=True, images=kind).model, predictors(variant)
    sizes = ["height", "width"]
    assert shape(model.graph.input[0]) == (["batch", *sizes, 3] if kind == "uint8" else ["batch", 3, *sizes])
    names = ["boxes", "scores", "classes", "masks"][: 3 + predictor.architecture.segmentation]
    assert [output.name for output in model.graph.output] == names
    session = load(model)
    for width, height in (*PHOTOGRAPHS, (100, 700), (31, 57)):  # for the third one, Pillow resizes the columns first
        pictures = [photograph(width, height, seed) if width > 400 else noise(width, height, seed) for seed in (1, 2)]
        outputs = run(session, as_batch(pictures, kind))
        assert outputs["classes"].dtype == np.int64
        check_detections(outputs, predictor, pictures, every_class=width > 400)


class Resize(torch.nn.Module):
    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.branches = branches

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return resize_as_pillow(pixels, 64, branches=self.branches)


def resize_model(*, branches: bool) -> onnx.ModelProto:
    program = torch.onnx.export(
        Resize(branches=branches).eval(),
        (torch.zeros(1, 3, 96, 112),),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({2: torch.export.Dim("height"), 3: torch.export.Dim("width")},),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_resize_has_pillows_bits_in_a_runtime(runtime: str, tmp_path: Path) -> None:
    model = resize_model(branches=runtime == "onnxruntime")
    if runtime == "onnxruntime":
        session = load(model)
        resize = lambda pixels: next(iter(run(session, pixels).values()))  # noqa: E731
    else:
        import openvino

        onnx.save(model, tmp_path / "resize.onnx")
        compiled = openvino.compile_model(tmp_path / "resize.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        resize = lambda pixels: compiled(pixels)[0]  # noqa: E731
    for width, height in ((640, 480), (480, 640), (64, 900), (900, 64), (64, 64), (33, 47), (127, 1023)):
        picture = noise(width, height)
        assert np.array_equal(resize(as_planes(picture).numpy()), by_pillow(picture, 64)), (width, height)


TWICE = """
import sys
from pathlib import Path
from rfdetr_core.base import files
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.run import Source, export_draft, export_files

source, folder = Source.read(Path(sys.argv[1])), Path(sys.argv[2])
for number, config in enumerate(sys.argv[3:]):
    export_files(source, ExportConfig.model_validate_json(config), folder / str(number), pictures=[])
"""


def export_in_a_process(checkpoint: Path, folder: Path, *configs: str, threads: int) -> None:
    for number in range(len(configs)):
        (folder / str(number)).mkdir(parents=True)
    command = [sys.executable, "-c", TWICE, str(checkpoint), str(folder), *configs]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)}
    subprocess.run(command, env=env, check=True, cwd=folder)


def test_files_have_equal_bytes_whatever_was_exported_before_and_no_paths(
    tmp_path: Path, predictors: Predictors
) -> None:
    checkpoint = predictors("pico").source
    assert checkpoint is not None
    raw, complete = '{"formats": ["onnx", "openvino"]}', '{"formats": ["onnx"], "postprocess": true}'
    export_in_a_process(checkpoint, tmp_path / "one", raw, complete, raw, threads=1)
    export_in_a_process(checkpoint, tmp_path / "two", complete, threads=2)
    files_of = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("model.*")}
    for name in ("model.onnx", "model.xml", "model.bin"):
        assert files_of[Path("one/0") / name] == files_of[Path("one/2") / name], name
    assert files_of[Path("one/1/model.onnx")] == files_of[Path("two/0/model.onnx")]
    for path, content in files_of.items():
        for trace in (
            str(ROOT),
            str(tmp_path),
            str(checkpoint.parent),
            "/tmp",
            "/home",
            sys.prefix,
            ".py",
            "stack_trace",
        ):
            assert trace.encode() not in content, (path, trace)
        assert not re.search(rb"(?<![a-z])" + getpass.getuser().encode() + rb"(?![a-z])", content)
        assert not re.search(rb"20[0-9]{2}-[0-9]{2}-[0-9]{2}", content)


def test_a_model_keeps_nothing_that_does_not_affect_its_results(drafts: Drafts) -> None:
    model = drafts("pico", postprocess=True).model
    again = type(model)()
    again.CopyFrom(model)
    strip(again)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert not re.search(r'doc_string: "[^"]|metadata_props', str(model))
