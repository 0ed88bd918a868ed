"""Exported files of a checkpoint, as the stage writes them but for what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.checkpoint.exported import checkpoint_fields, onnx_constants, onnx_graph, read_exported
from rfdetr_core.checkpoint.files import tensor_digest
from rfdetr_core.checkpoint.loading import build_from_checkpoint, class_names_of
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.export.graph import RESIZE, CompleteGraph, RawGraph
from rfdetr_core.export.onnx_file import describe, to_onnx, versions


def write_onnx(checkpoint: Path, path: Path, *, postprocess: bool = False) -> Path:
    """Export a checkpoint for any number of images; with postprocess, uint8 ones."""
    made = build_from_checkpoint(checkpoint)
    if postprocess:
        graph: RawGraph | CompleteGraph = CompleteGraph(made.detector, made.architecture, "uint8")
    else:
        graph = RawGraph(made.detector, made.architecture)
    model = to_onnx(graph, made.architecture, None)
    description = {
        "version": 1,
        "variant": made.architecture.name,
        "class_names": list(class_names_of(made.checkpoint)),
        "resolution": made.architecture.resolution,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "resize": RESIZE,
        "precision": "fp32",
        "postprocess": postprocess,
        "images": "uint8" if postprocess else "normalised",
        "batch_size": None,
        "tensors": tensor_digest(made.detector.state_dict()),
        "source": files.sha256_file(checkpoint),
        "record": None,
        "packages": versions(),
        "constants": onnx_constants(model),
        "graph": onnx_graph(model),
        "parity": {},
        "checkpoint": checkpoint_fields(made.checkpoint),
    }
    path.write_bytes(describe(model, description))
    return path


def redescribed(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a .onnx file whose description differs."""
    exported = read_exported(path)
    target.write_bytes(describe(exported.content, exported.description.model_dump() | changes))
    return target


def write_openvino(onnx_file: Path, path: Path) -> Path:
    """The OpenVINO model of a .onnx file."""
    import openvino

    from rfdetr_core.checkpoint.exported import description_texts

    model = openvino.convert_model(onnx_file)
    for key, text in description_texts(read_exported(onnx_file).description.model_dump()).items():
        model.set_rt_info(text, ["rfdetr", key])
    openvino.save_model(model, path, compress_to_fp16=False)
    return path
