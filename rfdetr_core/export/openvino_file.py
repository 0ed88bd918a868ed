"""From an ONNX model to an OpenVINO model: NAME.xml, and NAME.bin with the constants.

Equal ONNX models give equal bytes.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import (
    OPENVINO_EXTRA,
    description_texts,
    openvino_constants,
    openvino_graph,
)
from rfdetr_core.export import onnx_file
from rfdetr_core.export.graph import CHOSEN

PACKAGES = (*onnx_file.PACKAGES, "openvino")
_COUNTED = re.compile(r'(?<=\s)name="([A-Z][A-Za-z0-9]*)_\d+"(?= type=)')


def to_openvino(model: Any) -> Any:
    """Convert an ONNX model to an OpenVINO model.

    Raises:
        UserError: openvino is not installed.
    """
    openvino = _import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"  # OpenVINO writes the name into its file
        path.write_bytes(model.SerializeToString(deterministic=True))
        return openvino.convert_model(path)


@dataclass(frozen=True)
class OpenVinoDraft:
    """An OpenVINO model that is not written yet. It becomes two files, NAME.xml and NAME.bin."""

    name: str
    model: Any
    packages: tuple[str, ...] = PACKAGES

    def digests(self) -> dict[str, Any]:
        """The digests of the constants and of the graph, for the description."""
        with tempfile.TemporaryDirectory() as folder:
            path = _write(self.model, Path(folder) / "model.xml")
            root = ElementTree.parse(path).getroot()
            return {"constants": openvino_constants(root, path), "graph": openvino_graph(root)}

    def write(self, folder: Path, description: Mapping[str, Any]) -> list[Path]:
        """Write the files into a folder. The .xml file has the description."""
        described = self.model.clone()
        for key, text in description_texts(description).items():
            described.set_rt_info(text, ["rfdetr", key])
        path = _write(described, folder / self.name)
        return [path, path.with_suffix(".bin")]

    def write_with_tokens(self, folder: Path) -> Path:
        """Write a copy with an additional output: the tokens that the model chose."""
        copy = self.model.clone()
        top_k = next(operation for operation in copy.get_ordered_ops() if operation.get_type_name() == "TopK")
        copy.add_outputs([top_k.output(1)])[0].get_tensor().set_names({CHOSEN})
        return _write(copy, folder / "opened.xml")


def _write(model: Any, path: Path) -> Path:
    """Write both files completely, or neither. float32 stays float32."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
        draft = Path(temporary) / path.name
        _import_openvino().save_model(model, draft, compress_to_fp16=False)
        files.write_text(draft, _renumber_names(files.read_text(draft)))
        for suffix in (".bin", ".xml"):
            draft.with_suffix(suffix).replace(path.with_suffix(suffix))
    return path


def _import_openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"export.formats has openvino, but the package is not installed. Install it: {OPENVINO_EXTRA}"
        ) from error
    return openvino


def _renumber_names(text: str) -> str:
    """The XML with generated names, such as If_50082, counted from 0. OpenVINO's counter is per process."""
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f'name="{match[1]}_{len(names)}"')

    return _COUNTED.sub(rename, text)
