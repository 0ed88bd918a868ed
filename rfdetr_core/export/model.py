"""`RFDETR.export` of the Python API: it translates upstream's arguments and exports the model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.export.config import ABSENT, NAMES, ExportConfig
from rfdetr_core.export.run import COMPARED, Calibration, Scores, Source, export_files, valid_pictures
from rfdetr_core.inference.optimised import require_positive_int
from rfdetr_core.inference.predictor import Predictor
from rfdetr_core.ingest.folder import listing


def export_model(
    predictor: Predictor, folder: Path, arguments: Mapping[str, Any], data: ProjectPaths | None = None
) -> Path:
    """Export the checkpoint that a predictor was read from. Returns the path of the file.

    Args:
        predictor: the model.
        folder: where the file goes.
        arguments: see `RFDETR.export`.
        data: a dataset on which the AP of file and checkpoint are compared. None: they are only compared on noise and
            on the images of calibration_data.

    Raises:
        UserError: an argument is unknown, wrong or not supported; the model was not read from a file, or was changed
            since; see also `export_files`.
    """
    remaining = dict(arguments)
    if absent := [f"export() has no {key}: {ABSENT[key]}." for key in remaining if key in ABSENT]:
        raise UserError("\n".join(absent))
    _require_shape(remaining.pop("shape", None), predictor.architecture.resolution)
    calibration = _calibration(remaining.pop("calibration_data", None), remaining.pop("max_images", 100))
    pictures = [calibration.read(name) for name in list(calibration.digests)[:COMPARED]] if calibration else []
    config = _config(remaining)
    if "onnx-int8" in config.formats and calibration is None:
        if data is None:
            raise UserError(
                "onnx-int8 needs images, to measure value ranges. Give calibration_data, a folder of images."
            )
        calibration = Calibration.of_train(data, config.calibration_images)
    source = _source(predictor)
    scores = None
    if data is not None:
        scores, pictures = _scores(predictor, data), valid_pictures(data) or pictures
    with tempfile.TemporaryDirectory() as draft:
        written = export_files(source, config, Path(draft), pictures=pictures, scores=scores, calibration=calibration)
        for name in reversed(written):  # a .bin file is copied before the .xml file that needs it
            files.copy(Path(draft) / name, folder / name)
    return folder / NAMES[config.formats[0]]


def _config(arguments: dict[str, Any]) -> ExportConfig:
    """The arguments as the section `export` of params.yaml."""
    kind, quantization = arguments.pop("format", "onnx"), arguments.pop("quantization", None)
    if not isinstance(kind, str) or kind not in NAMES:
        raise UserError(
            f"format is {kind!r}. Give one of {', '.join(NAMES)}. For others, convert the ONNX file with other tools."
        )
    if quantization not in (None, "int8") or (quantization and kind == "openvino"):
        raise UserError(f"quantization is {quantization!r}. Give None, or 'int8' with the format onnx.")
    size, dynamic = arguments.pop("batch_size", 1), arguments.pop("dynamic_batch", False)
    if "formats" in arguments:
        raise UserError("export() has no argument formats. Give one format: format='onnx'.")
    if not isinstance(dynamic, bool):
        raise UserError(f"dynamic_batch is {dynamic!r}. Give True or False.")
    values = {"formats": ["onnx-int8" if quantization else kind], "batch_size": None if dynamic else size}
    return parse(ExportConfig, values | arguments, "export()")


def _require_shape(shape: Any, resolution: int) -> None:
    if shape not in (None, (resolution, resolution), [resolution, resolution]):
        raise UserError(
            f"shape is {shape!r}, but this model is exported only with its own resolution, {(resolution, resolution)}. "
            "For another resolution, build the model with it and train it."
        )


def _calibration(folder: Any, most: Any) -> Calibration | None:
    """The first images of a folder and its subfolders; None without a folder."""
    if folder is None:
        return None
    if not isinstance(folder, str | Path) or not Path(folder).is_dir():
        raise UserError(f"calibration_data is {folder!r}. Give the path of a folder of images.")
    names = list(listing(Path(folder), ""))[: require_positive_int("max_images", most)]
    if not names:
        raise UserError(f"calibration_data is {str(folder)!r}. This folder has no images.")
    digests = {name: files.sha256_file(Path(folder) / name) for name in names}
    return Calibration.of_folder(Path(folder), digests)


def _source(predictor: Predictor) -> Source:
    """The file of a predictor. UserError: the model in memory differs from the one in the file."""
    if predictor.source is None:
        raise UserError("This model is new. export() needs a model that was trained, or read from a file.")
    source, problem = Source.read(predictor.source), f"the model differs from its file {predictor.source}"
    if source.architecture != predictor.architecture:
        in_memory, in_file = vars(predictor.architecture), vars(source.architecture)
        changes = ", ".join(
            f"{key} {in_memory[key]} instead of {in_file[key]}" for key in in_memory if in_memory[key] != in_file[key]
        )
        raise UserError(f"{problem}: it has {changes}. Train it, then export it.")
    if source.tensors != predictor.tensors:
        raise UserError(f"{problem}: its weights have changed. Write a checkpoint of them, and export the checkpoint.")
    return source


def _scores(predictor: Predictor, data: ProjectPaths) -> Scores | None:
    """The test split of a dataset, or valid if test has no images, with the predictor's own scores on it."""
    for split in ("test", "valid"):
        if (scores := Scores.read(data, split, {})).samples:
            return replace(scores, source=scores.of_predictor(predictor))
    return None
