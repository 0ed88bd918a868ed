"""From a torch module to an ONNX file. Equal modules and packages give equal bytes.

torch's current exporter (`dynamo=True`) is used, since it keeps the batch size symbolic. The older exporter traces:
it writes each size that Python computed into the file as a constant.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import ONNX_EXTRA, PREFIX, description_texts, onnx_constants, onnx_graph
from rfdetr_core.export.config import OPSET
from rfdetr_core.export.graph import CHOSEN, CompleteGraph, RawGraph
from rfdetr_core.model.config import Architecture

PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")
_EXAMPLE = 96, 112  # height and width of the photograph for tracing; any size works


def import_exporter() -> Any:
    """Import the package onnx. UserError: onnx, or onnxscript, which torch's exporter needs, is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"exporting needs onnx and onnxscript. Install them: {ONNX_EXTRA}") from error
    return onnx


def to_onnx(graph: RawGraph | CompleteGraph, architecture: Architecture, batch_size: int | None) -> Any:
    """Make an ONNX model from a graph, without metadata.

    Args:
        graph: the raw or the complete graph.
        architecture: gives the resolution and the channels.
        batch_size: images per run; None: any number.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    onnx = import_exporter()
    count, side = batch_size or 2, architecture.resolution  # a size of 1 would be traced as fixed
    if isinstance(graph, RawGraph):
        example, free = torch.zeros(count, architecture.channels, side, side), {}
    elif graph.kind == "uint8":
        example, free = torch.zeros(count, *_EXAMPLE, 3, dtype=torch.uint8), {1: "height", 2: "width"}
    else:
        example, free = torch.zeros(count, 3, *_EXAMPLE), {2: "height", 3: "width"}
    free |= {} if batch_size else {0: "batch"}
    sizes = {axis: torch.export.Dim(name) for axis, name in sorted(free.items())}
    if isinstance(graph, CompleteGraph) and graph.branches:
        # torch.cond traces with the compiler. State of an earlier trace would change the names and the order of nodes.
        torch.compiler.reset()
    with torch.no_grad(), quiet():
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=(sizes,),
            custom_translation_table={torch.ops.aten.floor_divide.default: _divide},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    if isinstance(graph, CompleteGraph) and graph.kind == "uint8":
        _cast_input_first(model.graph)
    strip(model)
    onnx.checker.check_model(model)
    return model


def strip(model: Any) -> None:
    """Remove from a model what does not affect its results: stack traces, paths and Python names."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip(model.graph)


def encoder_products(model: Any) -> list[str]:
    """The names of the encoder's matrix products with weights, in order: all before the projector.

    They are found by their place in the graph. Names of initializers are unreliable: equal ones, such as zero biases,
    are merged.
    """
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    names = []
    for node in model.graph.node:
        if any(".projector." in name for name in node.input):
            break
        if node.op_type == "MatMul" and node.input[1] in matrices:
            names.append(node.name)
    return names


@dataclass(frozen=True)
class OnnxDraft:
    """An ONNX model that is not written yet. packages: the packages that made it."""

    name: str
    model: Any
    packages: tuple[str, ...] = PACKAGES

    def digests(self) -> dict[str, Any]:
        """The digests of the constants and of the graph, for the description."""
        return {"constants": onnx_constants(self.model), "graph": onnx_graph(self.model)}

    def write(self, folder: Path, description: Mapping[str, Any]) -> list[Path]:
        """Write the file with its description into a folder."""
        described = type(self.model)()
        described.CopyFrom(self.model)
        for key, text in description_texts(description).items():
            described.metadata_props.add(key=f"{PREFIX}{key}", value=text)
        return [_write(described, folder / self.name)]

    def write_with_tokens(self, folder: Path) -> Path:
        """Write a copy with an additional output: the tokens that the model chose."""
        import onnx

        copy = type(self.model)()
        copy.CopyFrom(self.model)
        chosen = next(node.output[1] for node in copy.graph.node if node.op_type == "TopK")
        copy.graph.node.add(op_type="Identity", input=[chosen], output=[CHOSEN])
        copy.graph.output.append(onnx.helper.make_tensor_value_info(CHOSEN, onnx.TensorProto.INT64, None))
        return _write(copy, folder / "opened.onnx")


def _write(model: Any, path: Path) -> Path:
    files.write_bytes(path, model.SerializeToString(deterministic=True))
    return path


def versions(names: Sequence[str]) -> dict[str, str]:
    """The installed versions of packages."""
    return {name: metadata.version(name) for name in names}


def _divide(number: Any, divisor: Any) -> Any:
    """Integer division for numbers that are not negative.

    The exporter's own version also handles negative numbers. It compares booleans with Equal, which TensorRT has only
    for numbers.
    """
    from onnxscript import opset18

    assert number.dtype.is_integer()
    return opset18.Div(number, divisor)


def _cast_input_first(graph: Any) -> None:
    """Connect every node that reads the uint8 input to its cast to float: TensorRT can only cast uint8, not use it."""
    name = graph.input[0].name
    conversion = next(node for node in graph.node if node.op_type == "Cast" and node.input[0] == name)
    first_cast = type(conversion)()
    first_cast.CopyFrom(conversion)
    graph.node.remove(conversion)
    for node in graph.node:
        for position, input_name in enumerate(node.input):
            if input_name == name:
                node.input[position] = first_cast.output[0]
    graph.node.insert(0, first_cast)


def _strip(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for element in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del element.metadata_props[:]
        element.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip(inner)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters. They print their steps, warn about their own code, and log advice about it."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    handlers = [*root.handlers]  # logging.warning() adds a handler if there is none
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
