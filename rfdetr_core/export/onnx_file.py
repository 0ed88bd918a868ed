"""From a torch module to an ONNX model whose bytes depend on the module alone.

torch's current exporter (`dynamo=True`) is used: it keeps the batch size symbolic, where the older one, which traces,
writes the sizes that Python computed as constants.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import ONNX_EXTRA, PREFIX, description_texts
from rfdetr_core.export.graph import CompleteGraph, RawGraph
from rfdetr_core.model.config import Architecture

OPSET = 18  # the first that the exporter writes, and in it all that is needed
PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir")
_EXAMPLE = 96, 112  # height and width of a photograph to trace with; any other is as good


def import_exporter() -> Any:
    """The package onnx. UserError: it or onnxscript, which torch's exporter needs, is not installed."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"exporting needs onnx and onnxscript. Install them: {ONNX_EXTRA}") from error
    return onnx


def to_onnx(graph: RawGraph | CompleteGraph, architecture: Architecture, batch_size: int | None) -> Any:
    """An ONNX model of a graph, without metadata. batch_size: of all its inputs; None for any.

    Raises:
        UserError: onnx or onnxscript is not installed.
    """
    onnx = import_exporter()
    count, side = batch_size or 2, architecture.resolution  # a traced size of 1 would count as fixed
    if isinstance(graph, RawGraph):
        example, free = torch.zeros(count, architecture.channels, side, side), {}
    elif graph.kind == "uint8":
        example, free = torch.zeros(count, *_EXAMPLE, 3, dtype=torch.uint8), {1: "height", 2: "width"}
    else:
        example, free = torch.zeros(count, 3, *_EXAMPLE), {2: "height", 3: "width"}
    free |= {} if batch_size else {0: "batch"}
    sizes = {axis: torch.export.Dim(name) for axis, name in sorted(free.items())}
    torch.compiler.reset()  # what an earlier trace left would change the names and the order of nodes
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    strip(model)
    onnx.checker.check_model(model)
    return model


def strip(model: Any) -> None:
    """Remove from a model what does not compute: stack traces, paths, and names of Python."""
    del model.metadata_props[:]
    model.doc_string = ""
    _strip(model.graph)


def encoder_products(model: Any) -> list[str]:
    """The names of the products of matrices with weights in the encoder's blocks, in order.

    The exporter names what it makes of a layer by the layer's parameters: the bias of each is still an initializer.
    """
    biases = {one.name for one in model.graph.initializer if ".encoder." in one.name and one.name.endswith(".bias")}
    weights = {one.name for one in model.graph.initializer if len(one.dims) == 2}
    added = {
        name for node in model.graph.node if node.op_type == "Add" and set(node.input) & biases for name in node.input
    }
    products = (node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights)
    return [node.name for node in products if node.output[0] in added]


def describe(model: Any, description: Mapping[str, Any]) -> bytes:
    """The file of a model that carries a description."""
    described = type(model)()
    described.CopyFrom(model)
    del described.metadata_props[:]
    for key, text in description_texts(description).items():
        described.metadata_props.add(key=f"{PREFIX}{key}", value=text)
    content: bytes = described.SerializeToString(deterministic=True)
    return content


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """The installed versions of packages."""
    return {name: metadata.version(name) for name in names}


def _strip(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for one in (*graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        del one.metadata_props[:]
        one.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _strip(inner)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its steps, warns of its own code, and logs what it leaves out."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
