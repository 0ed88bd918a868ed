"""Helpers that write exported files of the tiny models of `Repository`, with real formats and descriptions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rfdetr_core.base import files
from rfdetr_core.checkpoint.exported import (
    PREFIX,
    checkpoint_fields,
    description_texts,
    onnx_constants,
    onnx_graph,
    openvino_constants,
    openvino_graph,
)
from rfdetr_core.checkpoint.files import read_checkpoint, tensor_digest
from rfdetr_core.lineage.records import record_names
from tests.audit.repository import Repository

MULTIPLIED = "class_head.weight"


def write_onnx(source: Path, path: Path, **changes: Any) -> Path:
    """Write a .onnx file with all weights of a checkpoint. Its graph has a product, and a sum of two constants.

    Optimisers replace the sum by its value.
    """
    weights = read_checkpoint(source).weights
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    inputs, outputs = arrays[MULTIPLIED].shape[::-1]
    arrays["one"] = np.ones(outputs, np.float32)
    nodes = [
        helper.make_node("Add", ["class_head.bias", "one"], ["offset"]),
        helper.make_node("Gemm", ["input", MULTIPLIED, "offset"], ["product"], transB=1),
        helper.make_node("Identity", ["product"], ["labels"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", inputs])],
        [helper.make_tensor_value_info("labels", TensorProto.FLOAT, ["batch", outputs])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
    described = description_of(source, onnx_constants(model), onnx_graph(model)) | changes
    describe_onnx(model, described)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def write_openvino(source: Path, path: Path, **changes: Any) -> Path:
    """Write an .xml file and its .bin with the weights of a checkpoint as constants. Nothing computes with them."""
    root, data = ElementTree.Element("net", name="tiny", version="11"), b""
    layers = ElementTree.SubElement(root, "layers")
    for number, (name, tensor) in enumerate(read_checkpoint(source).weights.items()):
        layer = ElementTree.SubElement(layers, "layer", id=str(number), name=name, type="Const", version="opset1")
        shape, content = ", ".join(map(str, tensor.shape)), tensor.numpy().tobytes()
        place = {"offset": str(len(data)), "size": str(len(content))}
        ElementTree.SubElement(layer, "data", element_type="f32", shape=shape, **place)
        data += content
    ElementTree.SubElement(root, "edges")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".bin").write_bytes(data)
    described = description_of(source, openvino_constants(root, path), openvino_graph(root)) | changes
    group = ElementTree.SubElement(ElementTree.SubElement(root, "rt_info"), "rfdetr")
    for key, text in description_texts(described).items():
        ElementTree.SubElement(group, key, value=text)
    ElementTree.ElementTree(root).write(path)
    return path


def description_of(source: Path, constants: dict[str, str], graph: str) -> dict[str, Any]:
    checkpoint = read_checkpoint(source)
    record = {"lineage": checkpoint.lineage, "file": identity_of(source)}
    return {
        "version": 1,
        "variant": checkpoint.model_name,
        "class_names": checkpoint.args["class_names"],
        "resolution": checkpoint.model_config["resolution"],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "bilinear, not antialiased",
        "precision": "fp32",
        "postprocess": False,
        "images": "normalised",
        "batch_size": None,
        "tensors": tensor_digest(checkpoint.weights),
        "source": files.sha256_file(source),
        "record": record_names(record)[0],
        "packages": {"onnx": onnx.__version__},
        "constants": constants,
        "graph": graph,
        "parity": {"boxes": 1e-6},
        "checkpoint": checkpoint_fields(checkpoint),
    }


def identity_of(path: Path) -> dict[str, Any]:
    return {"md5": files.md5_file(path), "sha256": files.sha256_file(path), "size": path.stat().st_size}


def describe_onnx(model: onnx.ModelProto, described: dict[str, Any]) -> None:
    del model.metadata_props[:]
    for key, text in description_texts(described).items():
        model.metadata_props.add(key=f"{PREFIX}{key}", value=text)


def described(model: onnx.ModelProto) -> dict[str, Any]:
    return {entry.key.removeprefix(PREFIX): json.loads(entry.value) for entry in model.metadata_props}


def edit_onnx(path: Path, change: Callable[[onnx.ModelProto, dict[str, Any]], None]) -> None:
    """Change a file and its description."""
    model = onnx.load(path)
    content = described(model)
    change(model, content)
    describe_onnx(model, content)
    onnx.save(model, path)


def flip_bit(path: Path, name: str = MULTIPLIED, *, described: bool = False) -> None:
    """Change the lowest bit of an initializer; with `described`, change its digest in the description as well."""

    def change(model: onnx.ModelProto, content: dict[str, Any]) -> None:
        tensor = next(initializer for initializer in model.graph.initializer if initializer.name == name)
        data = bytearray(tensor.raw_data)
        data[0] ^= 1
        tensor.raw_data = bytes(data)
        if described:
            content["constants"] = onnx_constants(model)

    edit_onnx(path, change)


def export(repository: Repository, *names: str, cached: bool = False) -> list[Path]:
    """Write the files of the stage export and dvc.lock; with `cached`, write their listing into DVC's cache."""
    source, folder = (repository.folder / "output" / name for name in ("checkpoint_best_total.pth", "export"))
    paths = [{".onnx": write_onnx, ".xml": write_openvino}[Path(name).suffix](source, folder / name) for name in names]
    description = description_of(source, {}, "0" * 64)
    entries = {path.name: identity_of(path) for path in sorted(folder.iterdir())}
    content = {
        "source": {key: description[key] for key in ("tensors", "record")} | {"sha256": description["source"]},
        "files": entries,
    }
    files.write_json(repository.folder / "output" / "export.json", content)
    repository.lock()
    if cached:
        listing = repository.listing("output/export")
        name = files.md5_bytes(listing)
        files.write_bytes(repository.folder / ".dvc/cache/files/md5" / name[:2] / f"{name[2:]}.dir", listing)
    return paths
