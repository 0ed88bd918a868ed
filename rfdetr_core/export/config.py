"""The `export` section of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rfdetr_core.base.params import Config

Format = Literal["onnx", "openvino", "onnx-int8"]
FP32_DROP, OTHER_DROP = 0.1, 0.5  # points of mAP that a file may lose where `max_drop` is null


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
