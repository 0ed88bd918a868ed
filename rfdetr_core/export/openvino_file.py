"""From an ONNX model to an OpenVINO model: NAME.xml, and NAME.bin with its constants, both with equal bytes for equal
ONNX."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.exported import OPENVINO_EXTRA, description_texts

PACKAGES = ("openvino",)
_COUNTED = re.compile(r'(?<=\s)name="([A-Z][A-Za-z0-9]*)_\d+"(?= type=)')


def to_openvino(model: Any) -> Any:
    """An OpenVINO model of an ONNX model.

    Raises:
        UserError: openvino is not installed.
    """
    openvino = _import()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"  # OpenVINO writes the name into its file
        path.write_bytes(model.SerializeToString(deterministic=True))
        return openvino.convert_model(path)


def describe(model: Any, description: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write the two files of a model that carries a description: float32 stays float32."""
    described = model.clone()
    for key, text in description_texts(description).items():
        described.set_rt_info(text, ["rfdetr", key])
    write(described, folder, name)


def write(model: Any, folder: Path, name: str) -> None:
    """Write the two files of a model, each whole or not at all."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        draft = Path(temporary) / f"{name}.xml"
        _import().save_model(model, draft, compress_to_fp16=False)
        draft.write_text(_numbered(files.read_text(draft)), "utf-8")
        for suffix in (".bin", ".xml"):
            draft.with_suffix(suffix).replace(folder / f"{name}{suffix}")


def _import() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(f"export.formats has openvino, which is not installed. Install it: {OPENVINO_EXTRA}") from error
    return openvino


def _numbered(text: str) -> str:
    """The XML with the names that OpenVINO makes by a counter of the process, such as If_50082, counted from 0."""
    names: dict[str, str] = {}

    def rename(match: re.Match[str]) -> str:
        return names.setdefault(match[0], f'name="{match[1]}_{len(names)}"')

    return _COUNTED.sub(rename, text)
