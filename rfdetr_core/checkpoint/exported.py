"""Reads exported model files (ONNX, OpenVINO): the description that each contains, and digests of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from pydantic import Field

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.schema import Count, FileSchema, Sha256, Text, checked
from rfdetr_core.checkpoint.files import Checkpoint, check_content, read_training_record
from rfdetr_core.checkpoint.schema import Content

SUFFIXES = (".onnx", ".xml")  # an OpenVINO model is two files: NAME.xml, and NAME.bin with its constants
PREFIX = "rfdetr."  # of the keys in ONNX's metadata_props; in OpenVINO's rt_info the group is named "rfdetr"
VERSION = 1
ONNX_EXTRA, OPENVINO_EXTRA = "pip install -e '.[onnx]'", "pip install -e '.[openvino]'"
_VALUES = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_CHECKPOINT_FIELDS = (
    "model_name",
    "model_config",
    "args",
    "threshold",
    "lineage",
    "rfdetr_version",
    "best_total_source",
)


class Description(FileSchema):
    """The description in an exported file: one JSON value per key.

    images: the format of its input. "normalised": float32 (B, C, R, R), normalised by the caller. The other two are for
        files with postprocess. "uint8": (B, H, W, 3). "float": float32 (B, 3, H, W) from 0 to 1.
    batch_size: None if any size is accepted.
    tensors: the digest of the weights of the source, which is the checkpoint that was exported.
    source: the digest of the file of the source.
    record: the name of the source's run record in records/.
    packages: the versions that exported it.
    constants: the SHA-256 of each constant of the graph.
    graph: the SHA-256 of the graph without the values of its constants.
    parity: the measured differences between this file and its source.
    calibration: the images and settings of int8.
    checkpoint: fields of the source, see `checkpoint_fields`.
    """

    version: Literal[1]
    variant: Text
    class_names: list[Text]
    resolution: Count
    mean: list[float]
    std: list[float]
    resize: Text
    precision: Literal["fp32", "int8"]
    postprocess: bool
    images: Literal["normalised", "uint8", "float"]
    batch_size: Count | None
    tensors: Sha256
    source: Sha256
    record: Text | None
    packages: dict[Text, Text]
    constants: dict[Text, Sha256]
    graph: Sha256
    parity: dict[Text, Any]
    calibration: dict[Text, Any] | None = None
    checkpoint: dict[Text, Any] = Field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """An exported file and its description.

    checkpoint: the fields of the checkpoint that the file was exported from. Its `weights` are empty.
    """

    path: Path
    format: Literal["onnx", "openvino"]
    description: Description
    checkpoint: Checkpoint
    content: Any  # ModelProto, or the root of the XML document

    @cached_property
    def constants(self) -> dict[str, str]:
        """The SHA-256 of each constant of the file. Equal to description.constants, unless the file was changed."""
        return onnx_constants(self.content) if self.format == "onnx" else openvino_constants(self.content, self.path)

    @cached_property
    def graph(self) -> str:
        """The SHA-256 of the graph without values of constants. Equal to description.graph, unless it was changed."""
        return onnx_graph(self.content) if self.format == "onnx" else openvino_graph(self.content)

    @property
    def changed_constants(self) -> list[str]:
        """The names of constants that differ from the description: changed, added or removed."""
        return sorted(name for name, _, _ in files.changed_digests(self.description.constants, self.constants))


def read_exported(path: Path) -> Exported:
    """Read a .onnx or .xml file that this project exported. It is not run.

    Raises:
        UserError: it cannot be read, is damaged, or has no description; or the package onnx is not installed.
    """
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    kind: Literal["onnx", "openvino"] = "onnx" if path.suffix == ".onnx" else "openvino"
    content: Any = parse_onnx(data, path) if kind == "onnx" else _parse_openvino(data, path)
    texts = _description_texts(content, kind)
    if not texts:
        raise UserError(
            f"{path} has no description of its model. Either this project did not export it, or another tool removed "
            "the description. Export it again from its checkpoint."
        )
    try:
        values = {key: files.parse_json(text.encode()) for key, text in texts.items()}
    except ValueError as error:
        raise UserError(f"{path}: its description is damaged ({error}). Export it again from its checkpoint.") from None
    described = Description.model_validate(checked(values, Description, str(path)))
    check_content(described.checkpoint, Content, path)
    kept_fields = {
        key: described.checkpoint[key] for key in _CHECKPOINT_FIELDS if described.checkpoint.get(key) is not None
    }
    return Exported(path, kind, described, Checkpoint({}, path=path, **kept_fields), content)


def read_any_training_record(path: Path) -> dict[str, Any] | None:
    """The training record that a model file of any kind claims, see `read_training_record`. Its content is not checked.

    Raises:
        UserError: it is an exported file and cannot be read.
    """
    return read_exported(path).checkpoint.training if path.suffix in SUFFIXES else read_training_record(path)


def checkpoint_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of a checkpoint that its exported files keep. `Exported.checkpoint` is made from them."""
    return {key: getattr(checkpoint, key) for key in _CHECKPOINT_FIELDS if getattr(checkpoint, key) is not None}


def onnx_constants(model: Any) -> dict[str, str]:
    """The SHA-256 of each initializer of an ONNX model, by its name.

    Raises:
        UserError: an initializer has fewer or other values than its type and shape need.
    """
    from onnx import numpy_helper

    constants = {}
    for tensor in model.graph.initializer:
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise UserError(f"The initializer {tensor.name} is damaged ({error}). Export the file again.") from None
        constants[tensor.name] = _digest([str(values.dtype).encode(), str(values.shape).encode(), values.tobytes()])
    return constants


def onnx_graph(model: Any) -> str:
    """The SHA-256 of an ONNX model without its metadata and the values of its initializers.

    If this digest is unchanged but a constant differs, then only the constant was edited. An optimiser changes the
    graph, too.
    """
    bare = type(model)()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    for tensor in bare.graph.initializer:
        for field in _VALUES:
            tensor.ClearField(field)
    return files.sha256_bytes(bare.SerializeToString(deterministic=True))


def openvino_constants(root: ElementTree.Element, path: Path) -> dict[str, str]:
    """The SHA-256 of each constant of an OpenVINO model, by the name of its layer.

    The name of a constant inside a branch of a condition begins with the names of the condition and the branch.

    Raises:
        UserError: the .bin file is missing or too short.
    """
    weights = path.with_suffix(".bin")
    try:
        data = files.read_bytes(weights)
    except OSError as error:
        raise UserError(f"{weights} cannot be read: {error.strerror or error}. It belongs to {path}.") from error
    constants = {}
    for name, layer in _constant_layers(root):
        element = layer.find("data")
        attributes = {} if element is None else element.attrib
        try:
            start, size = int(attributes["offset"]), int(attributes["size"])
        except (KeyError, ValueError):
            raise UserError(f"{path}: the constant {name} has no offset and size in {weights}.") from None
        if not 0 <= start <= start + size <= len(data):
            raise UserError(f"{weights} is cut off: it has {len(data)} bytes, {path} needs {start + size}.")
        shape = [attributes.get("element_type", "").encode(), attributes.get("shape", "").encode()]
        constants[name] = _digest([*shape, data[start : start + size]])
    return constants


def _constant_layers(part: ElementTree.Element, prefix: str = "") -> Iterator[tuple[str, ElementTree.Element]]:
    for layer in part.iterfind("layers/layer"):
        name = f"{prefix}{layer.get('name')}"
        if layer.get("type") == "Const":
            yield name, layer
        for body in layer.iterfind("*[layers]"):
            yield from _constant_layers(body, f"{name}/{body.tag}/")


def openvino_graph(root: ElementTree.Element) -> str:
    """The SHA-256 of an OpenVINO model: its layers and edges, without its metadata and the values of its constants."""
    return files.digest(
        [ElementTree.canonicalize(ElementTree.tostring(part)) for part in root if part.tag != "rt_info"]
    )


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def parse_onnx(data: bytes, path: Path) -> Any:
    """The ModelProto of a .onnx file's bytes.

    Raises:
        UserError: it is damaged, has no graph or keeps its weights in another file; or the package onnx is not
            installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise UserError(f"The package onnx is needed to read {path}. Install it: {ONNX_EXTRA}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise UserError(f"{path} is not an ONNX file, or it is damaged. Export it again.") from None
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX file: it has no graph. Export it again.")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{path} keeps its weights in another file, which is not supported. Save it as one file.")
    return model


def _parse_openvino(data: bytes, path: Path) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not an OpenVINO model: {error}. Export it again.") from None
    if root.tag != "net" or root.find("layers") is None:
        raise UserError(f"{path} is not an OpenVINO model: it has no layers.")
    if _levels(root) > files.MOST_LEVELS:
        raise UserError(f"{path} is nested too deeply: more than {files.MOST_LEVELS} levels. Export it again.")
    return root


def _description_texts(content: Any, kind: Literal["onnx", "openvino"]) -> dict[str, str]:
    """The texts of the description, by key. Empty: the file has no description."""
    if kind == "onnx":
        pairs = ((entry.key, entry.value) for entry in content.metadata_props)
        return {key.removeprefix(PREFIX): value for key, value in pairs if key.startswith(PREFIX)}
    info = content.find("rt_info/rfdetr")
    return {element.tag: element.get("value", "") for element in ([] if info is None else info)}


def _levels(root: ElementTree.Element) -> int:
    level, depth = [root], 0
    while level:
        level, depth = [inner for element in level for inner in element], depth + 1
    return depth


def description_texts(description: Mapping[str, Any]) -> dict[str, str]:
    """The values of a description as JSON, by key, in the order of the fields of `Description`.

    The texts are ASCII: XML cannot hold some characters.
    """
    values = Description.model_validate(description).model_dump(mode="json")
    return {key: json.dumps(value, allow_nan=False) for key, value in values.items()}
