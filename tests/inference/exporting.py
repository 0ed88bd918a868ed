"""Exports checkpoints to .onnx and .xml files like the stage export, but without measurements in the description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rfdetr_core.checkpoint.exported import read_exported
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.export.onnx_file import OnnxDraft
from rfdetr_core.export.openvino_file import OpenVinoDraft, to_openvino
from rfdetr_core.export.run import Source, description_of, export_draft


def write_onnx(checkpoint: Path, path: Path, **settings: Any) -> Path:
    """Export a checkpoint. settings: fields of ExportConfig."""
    source, config = Source.read(checkpoint), ExportConfig(**settings)
    draft = export_draft(source, config, "onnx")
    assert isinstance(draft, OnnxDraft)
    description = description_of(source, config, "onnx", draft.packages) | draft.digests() | {"parity": {}}
    return OnnxDraft(path.name, draft.model).write(path.parent, description)[0]


def redescribed(path: Path, target: Path, **changes: Any) -> Path:
    """A copy of a .onnx file whose description differs."""
    exported = read_exported(path)
    draft = OnnxDraft(target.name, bare(exported.content))
    return draft.write(target.parent, exported.description.model_dump() | changes)[0]


def write_openvino(onnx_file: Path, path: Path) -> Path:
    """The OpenVINO model of a raw .onnx file."""
    exported = read_exported(onnx_file)
    draft = OpenVinoDraft(path.name, to_openvino(bare(exported.content)))
    return draft.write(path.parent, exported.description.model_dump() | draft.digests())[0]


def bare(model: Any) -> Any:
    """A copy of an ONNX model without its description."""
    copy = type(model)()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    return copy
