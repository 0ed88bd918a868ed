"""Quantisation to int8 of the encoder's matrix products. Ranges are measured on images of the train split."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import ONNX_EXTRA
from rfdetr_core.export.onnx_file import PACKAGES as ONNX_PACKAGES
from rfdetr_core.export.onnx_file import encoder_products, import_exporter, quiet, strip

PACKAGES = (*ONNX_PACKAGES, "onnxruntime")
METHOD = "onnxruntime's static quantisation by least and largest value: weights of 7 bits per channel, all else 8"


def to_int8(model: Any, images: Iterator[npt.NDArray[Any]]) -> Any:
    """Make an ONNX model whose encoder multiplies 8-bit integers. Everything else stays float32.

    Weights use 7 of the 8 bits. Processors without VNNI add two products in 16 bits and would saturate larger sums, so
    the results would depend on the processor.

    Args:
        model: the float32 ONNX model.
        images: batches of the model's input, on which the ranges are measured.

    Raises:
        UserError: onnxruntime is not installed.
    """
    onnx = import_exporter()
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise UserError(f"int8 needs onnxruntime. Install it: {ONNX_EXTRA}") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
            batch = next(images, None)
            return None if batch is None else {model.graph.input[0].name: batch}

    with tempfile.TemporaryDirectory() as folder, quiet():
        before, int8_path = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(model.SerializeToString(deterministic=True))
        quantization.quantize_static(
            before,
            int8_path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=encoder_products(model),
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        quantised = onnx.load(int8_path)
    strip(quantised)
    return quantised
