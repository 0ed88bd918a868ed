"""The `export` section of params.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config

Format = Literal["onnx", "openvino", "onnx-int8"]
NAMES: Mapping[Format, str] = {"onnx": "model.onnx", "openvino": "model.xml", "onnx-int8": "model-int8.onnx"}
OPSET = 18  # the lowest that torch's exporter writes; it has every operator that is needed
FP32_DROP, OTHER_DROP = 0.1, 0.5  # points of mAP that a file may lose if `max_drop` is null
_TFLITE, _TENSORRT = "it is for TFLite files", "it is for TensorRT: pass it to trtexec, see docs/export.md"
# Arguments of upstream's export() that do not exist here -> the reason.
ABSENT: Mapping[str, str] = {
    "infer_dir": "the model is traced with an image of zeros",
    "simplify": "it has no effect upstream",
    "force": "it has no effect upstream",
    "backbone_only": "a file without detections cannot be compared with its checkpoint",
    "opset_version": f"it is always {OPSET}",
    "verbose": "nothing is printed",
    "patch_size": "the variant determines it",
    "backend": _TFLITE,
    "soc": _TFLITE,
    "fp16": _TENSORRT,
    "max_batch_size": _TENSORRT,
    "notes": "the file has its own description",
    "openvino_precision": "OpenVINO files are float32 and run in float32",
    **dict.fromkeys(("coreml_precision", "coreai_precision"), "it is for Apple's formats"),
    "output_name": "the format determines the file name: " + ", ".join(NAMES.values()),
}


class ExportConfig(Config):
    """Which files for other runtimes are made from the chosen checkpoint, and the checks they must pass."""

    formats: tuple[Format, ...] = Field(
        ("onnx",), description="the files to write: any of onnx, openvino, onnx-int8 (the encoder computes in int8)"
    )
    postprocess: bool = Field(
        False,
        description="false: the input is normalised images, the outputs are `dets`, `labels` and `masks`, as in "
        "upstream's files. true: the input is photographs of any size, the outputs are boxes in pixels, scores and "
        "class indexes",
    )
    images: Literal["uint8", "float"] = Field(
        "uint8", description="input with postprocess: uint8 (B, H, W, 3), or float32 (B, 3, H, W) from 0 to 1; both RGB"
    )
    batch_size: int | None = Field(None, gt=0, description="images per run of the file; null: any number")
    max_drop: float | None = Field(
        None, ge=0, description="points of mAP (0 to 100) that a file may lose; null: 0.1 for fp32, 0.5 for int8"
    )
    calibration_images: int = Field(32, gt=0, description="images of train on which the ranges for int8 are measured")
