"""The `export` section of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config

Format = Literal["onnx", "openvino", "onnx-int8"]
NAMES: Mapping[Format, str] = {"onnx": "model.onnx", "openvino": "model.xml", "onnx-int8": "model-int8.onnx"}
OPSET = 18  # the first that torch's exporter writes, and in it all that is needed
FP32_DROP, OTHER_DROP = 0.1, 0.5  # points of mAP that a file may lose where `max_drop` is null
_TFLITE, _TENSORRT = "it is for TFLite files", "it is for TensorRT: give it to trtexec, see docs/export.md"
# Upstream's arguments of export() that are not here, and why.
ABSENT: Mapping[str, str] = {
    "infer_dir": "the model is traced with an image of zeros",
    "simplify": "it has no effect upstream",
    "force": "it has no effect upstream",
    "backbone_only": "a file without detections cannot be compared with its checkpoint",
    "opset_version": f"it is {OPSET}",
    "verbose": "nothing is printed",
    "patch_size": "it belongs to the variant",
    "backend": _TFLITE,
    "soc": _TFLITE,
    "fp16": _TENSORRT,
    "max_batch_size": _TENSORRT,
    "notes": "the file carries a description of its own",
    "openvino_precision": "OpenVINO files are float32, and run in it",
    **dict.fromkeys(("coreml_precision", "coreai_precision"), "it is for Apple's formats"),
    "output_name": "a file is named by its format: " + ", ".join(NAMES.values()),
}


class ExportConfig(Config):
    """Which files for other runtimes are made of the chosen checkpoint, and what they must hold."""

    formats: tuple[Format, ...] = Field(
        ("onnx",), description="any of onnx, openvino, onnx-int8 (the encoder computes in int8)"
    )
    postprocess: bool = Field(
        False,
        description="false: `dets`, `labels`, `masks` as upstream's files have them, for normalised images; true: "
        "photographs of any size in, boxes in pixels, scores and class indexes out",
    )
    images: Literal["uint8", "float"] = Field(
        "uint8", description="with postprocess: uint8 (B, H, W, 3), or float32 (B, 3, H, W) from 0 to 1; both RGB"
    )
    batch_size: int | None = Field(None, gt=0, description="images that a file takes at a time; null: any number")
    max_drop: float | None = Field(
        None, ge=0, description="points of mAP (0 to 100) that a file may lose; null: 0.1 for fp32, 0.5 for int8"
    )
    calibration_images: int = Field(32, gt=0, description="images of train that the ranges of int8 are measured on")
