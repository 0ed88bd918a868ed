"""Every operator of the ONNX files is in the published list of TensorRT 10. TensorRT itself is not run here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import AttributeProto, TensorProto, numpy_helper

pytestmark = pytest.mark.slow
OPERATORS = {
    name: types
    for name, *types in map(str.split, (Path(__file__).parent / "tensorrt_operators.txt").read_text().splitlines())
    if name != "#"
}
TYPES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
TYPED_BY = {"Where": 1}  # operator -> the number of the input whose type is in the list; default: the first
INITIALIZERS = {  # operator -> the number of the input that must be constant when TensorRT builds
    **{f"Reduce{kind}": 1 for kind in ("Max", "Min", "Mean", "Sum", "Prod", "L1", "L2", "SumSquare")},
    **{"Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "Pad": 3, "CumSum": 1},
}
COMPLETE = {"postprocess": True}
FLAVOURS = [
    ("pico", {}),
    ("pico", COMPLETE),
    ("pico", COMPLETE | {"images": "float"}),
    ("seg-pico", {}),
    ("seg-pico", COMPLETE),
]


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize(("variant", "settings"), FLAVOURS)
def test_tensorrt_10_has_each_operator_of_a_file(
    variant: str, settings: dict[str, Any], drafts: Callable[..., Any]
) -> None:
    model = onnx.shape_inference.infer_shapes(drafts(variant, **settings).model, data_prop=True)
    assert all(opset.domain in ("", "ai.onnx") and 9 <= opset.version <= 20 for opset in model.opset_import)
    assert not model.functions
    all_graphs = [*graphs(model.graph)]
    nodes = [node for graph in all_graphs for node in graph.node]
    assert {node.op_type for node in nodes} - {*OPERATORS} == set()
    constants = {tensor.name: tensor for graph in all_graphs for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in nodes if node.op_type == "Constant"}
    assert {tensor.data_type for tensor in constants.values()} <= {*TYPES}
    types = types_of(model, all_graphs)
    for node in nodes:
        attribute_values = attributes(node)
        if node.op_type != "Constant" and node.input:
            kind = TYPES[types[node.input[TYPED_BY.get(node.op_type, 0)]]]
            assert kind in OPERATORS[node.op_type], node
        if (place := INITIALIZERS.get(node.op_type)) is not None and len(node.input) > place and node.input[place]:
            assert node.input[place] in constants, node
        match node.op_type:
            case "TopK":
                assert attribute_values.get("sorted", 1) == 1
                assert int(numpy_helper.to_array(constants[node.input[1]]).item()) < 3840
            case "LayerNormalization":
                assert len(node.output) == 1
            case "GridSample":
                ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.value_info}
                assert ranks[node.input[0]] == 4
            case "Resize":
                assert not attribute_values.get("antialias")
                assert attribute_values["mode"] in (b"nearest", b"linear")
            case "If":
                then_graph, else_graph = attribute_values["then_branch"], attribute_values["else_branch"]
                assert not {value.name for value in then_graph.output} & {value.name for value in else_graph.output}
                assert len(then_graph.output) == len(else_graph.output) == 1
            case "ScatterND":
                assert attribute_values.get("reduction", b"none") == b"none"


def types_of(model: onnx.ModelProto, all_graphs: list[onnx.GraphProto]) -> dict[str, int]:
    values = [value for graph in all_graphs for value in (*graph.input, *graph.value_info, *graph.output)]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for graph in all_graphs for tensor in graph.initializer}
