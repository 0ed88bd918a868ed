"""The stage export: files for other runtimes. Each is compared with the checkpoint and kept only if it agrees."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rfdetr_core.base import files, images
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import read_classes, read_manifest
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.checkpoint.exported import VERSION, checkpoint_fields, read_exported
from rfdetr_core.checkpoint.files import Checkpoint, model_config_of, tensor_digest
from rfdetr_core.checkpoint.loading import build_from_checkpoint, class_names_of
from rfdetr_core.checkpoint.schema import Args
from rfdetr_core.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.evaluation.evaluate import detect
from rfdetr_core.evaluation.scoring import Scored
from rfdetr_core.export import onnx_file, parity, quantise
from rfdetr_core.export.config import FP32_DROP, NAMES, OTHER_DROP, ExportConfig, Format
from rfdetr_core.export.graph import RESIZE, CompleteGraph, RawGraph
from rfdetr_core.export.onnx_file import OnnxDraft
from rfdetr_core.export.openvino_file import OpenVinoDraft, to_openvino
from rfdetr_core.inference.exported import ExportedPredictor, as_input
from rfdetr_core.inference.predictor import BasePredictor, torch_threads
from rfdetr_core.inference.sessions import Array, open_session
from rfdetr_core.lineage.records import RECORD, record_names
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.detector import Detector

COMPARED = 8  # pictures of valid for the comparison query by query
_DRAFT = ".export-"


@dataclass(frozen=True)
class Source:
    """The checkpoint that is exported. record: the name of its run record in records/, if it has one."""

    sha256: str
    tensors: str
    checkpoint: Checkpoint
    detector: Detector
    architecture: Architecture
    record: str | None = None

    @classmethod
    def read(cls, path: Path, record: Path | None = None) -> Source:
        """Read a checkpoint. record: a run record; it is used only if it names the digest of this file.

        Raises:
            UserError: the file is not a checkpoint, or the record is damaged.
        """
        built, sha256 = build_from_checkpoint(path), files.sha256_file(path)
        content = files.read_json(record) if record is not None and record.exists() else None
        name = record_names(content)[0] if content is not None and content["file"]["sha256"] == sha256 else None
        tensors = tensor_digest(built.detector.state_dict())
        return cls(sha256, tensors, built.checkpoint, built.detector, built.architecture, name)


@dataclass(frozen=True)
class Scores:
    """The split on which exported files are scored. source: the scores of the checkpoint on it, as in metrics.json."""

    split: str
    dataset: Path
    annotations: Mapping[str, Any]
    samples: Sequence[Sample]
    names: tuple[str, ...]
    source: Mapping[str, Any]

    @classmethod
    def read(cls, where: ProjectPaths, split: str, source: Mapping[str, Any]) -> Scores:
        """Read a split of a dataset.

        Args:
            where: the paths of the project: annotations, manifests, dataset.
            split: the name of the split.
            source: the scores of the checkpoint on it, as in metrics.json.
        """
        names = tuple(entry.name for entry in read_classes(where.classes))
        annotations, samples = files.read_json(where.split(split)[0]), read_samples(*where.split(split))
        return cls(split, where.dataset, annotations, samples, names, source)

    def of_predictor(self, predictor: BasePredictor) -> dict[str, Any]:
        """The scores of a predictor on this split."""
        results = detect(predictor, self.dataset, self.samples, self.names)
        segments = predictor.architecture.segmentation
        return Scored.from_results(dict(self.annotations), results, segmentation=segments, threshold=None).numbers()


@dataclass(frozen=True)
class Calibration:
    """The images on which the ranges for int8 are measured: path -> SHA-256, and the function that reads one."""

    digests: Mapping[str, str]
    read: Callable[[str], Image.Image]

    @classmethod
    def of_folder(cls, folder: Path, digests: Mapping[str, str]) -> Calibration:
        """Calibrate on images of a folder. Reading one fails if it does not have its digest."""
        return cls(digests, lambda path: read_picture(folder, path, digests[path]))

    @classmethod
    def of_train(cls, where: ProjectPaths, most: int) -> Calibration:
        """Calibrate on images of train: those with the lowest digests, a choice independent of names and order."""
        rows = sorted(read_manifest(where.split("train")[1]), key=lambda row: row.sha256)[:most]
        return cls.of_folder(where.dataset, {row.path: row.sha256 for row in rows})


def export_stage(where: ProjectPaths, config: ExportConfig, output: Path) -> None:
    """Write the files to `output`/export, and their measurements to `output`/export.json.

    Args:
        where: the paths of the project: annotations, manifests, dataset.
        config: the section `export` of params.yaml.
        output: the run folder.

    Raises:
        UserError: an input is missing, a package is not installed, or a file differs from the checkpoint. Then no file
            is written.
    """
    source = Source.read(output / "checkpoint_best_total.pth", output / RECORD.name)
    reports = Path("reports/evaluate")
    split = files.read_json(reports / "about.json")["split"]
    scores = Scores.read(where, split, files.read_json(reports / "metrics.json"))
    pictures = valid_pictures(where)
    needs_calibration = "onnx-int8" in config.formats
    calibration = Calibration.of_train(where, config.calibration_images) if needs_calibration else None
    folder = output / "export"
    for leftover in output.glob(f"{_DRAFT}*"):  # of a stage that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=_DRAFT) as temporary:
        draft = Path(temporary) / "export"
        draft.mkdir()
        written = export_files(source, config, draft, pictures=pictures, scores=scores, calibration=calibration)
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    source_facts = {"sha256": source.sha256, "tensors": source.tensors, "record": source.record}
    files.write_json(output / "export.json", {"source": source_facts, "files": written})


def export_files(
    source: Source,
    config: ExportConfig,
    folder: Path,
    *,
    pictures: Sequence[Image.Image],
    scores: Scores | None = None,
    calibration: Calibration | None = None,
) -> dict[str, dict[str, Any]]:
    """Write a file for each format into a folder. Returns the measurements of each file, by its name.

    Args:
        source: the checkpoint.
        config: the section `export` of params.yaml.
        folder: where the files go.
        pictures: images for the comparison query by query, besides noise.
        scores: the split for the comparison of AP. None: AP is not measured, and the files say so.
        calibration: images for int8.

    Raises:
        UserError: a package is not installed, int8 has no calibration images, or a file differs from the checkpoint.
    """
    architecture = source.architecture
    if architecture.channels != 3:
        raise UserError(
            f"the model takes {architecture.channels} channels. Only models for RGB images can be exported."
        )
    written_files: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(config.formats):
        draft, extra = export_draft(source, config, kind), dict[str, Any]()
        if kind == "onnx-int8":
            if calibration is None or not calibration.digests:
                raise UserError(
                    "onnx-int8 needs images of train, to measure value ranges. The split train has no image."
                )
            batches = _calibration_batches(calibration, config, architecture)
            draft = OnnxDraft(NAMES[kind], quantise.to_int8(draft.model, batches), quantise.PACKAGES)
            extra = {"calibration": {"method": quantise.METHOD, "images": dict(calibration.digests)}}
        description = description_of(source, config, kind, draft.packages) | draft.digests() | extra
        figures = _measure(draft, description, source, config, pictures, scores)
        described = description | {"parity": figures}
        written = draft.write(folder, described)
        written_files |= {path.name: _facts(path, described) for path in written}
    return written_files


def export_draft(source: Source, config: ExportConfig, kind: Format) -> OnnxDraft | OpenVinoDraft:
    """The model in a format, before quantisation and description. Equal weights and packages give equal models.

    Args:
        source: the checkpoint.
        config: gives the input, the batch size, and whether the file postprocesses.
        kind: the format. For int8, this is the float32 model before quantisation.
    """
    graph: RawGraph | CompleteGraph
    if config.postprocess:
        # In OpenVINO 2026.4, the first result of a session is wrong if the graph has an If.
        branches = kind != "openvino"
        graph = CompleteGraph(source.detector, source.architecture, config.images, branches=branches)
    else:
        graph = RawGraph(source.detector, source.architecture)
    model = onnx_file.to_onnx(graph, source.architecture, config.batch_size)
    if kind == "openvino":
        return OpenVinoDraft(NAMES[kind], to_openvino(model))
    return OnnxDraft(NAMES[kind], model)


def description_of(source: Source, config: ExportConfig, kind: Format, packages: Sequence[str]) -> dict[str, Any]:
    """The description that a file carries, without the digests of its content and the measurements.

    Args:
        source: the checkpoint.
        config: gives the input, the batch size, and whether the file postprocesses.
        kind: the format. It determines the precision.
        packages: the packages that made the file. The description has their installed versions.
    """
    return {
        "version": VERSION,
        "variant": source.architecture.name,
        "class_names": list(class_names_of(source.checkpoint)),
        "resolution": source.architecture.resolution,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "resize": RESIZE,
        "precision": "int8" if kind == "onnx-int8" else "fp32",
        "postprocess": config.postprocess,
        "images": config.images if config.postprocess else "normalised",
        "batch_size": config.batch_size,
        "tensors": source.tensors,
        "source": source.sha256,
        "record": source.record,
        "packages": onnx_file.versions(packages),
        "checkpoint": checkpoint_fields(_embedded_checkpoint(source)),
    }


def _embedded_checkpoint(source: Source) -> Checkpoint:
    """The part of the checkpoint that goes into a file.

    From a checkpoint of another program, only the fields that describe the model are kept: its other arguments may
    contain paths, or values that JSON cannot hold.
    """
    checkpoint = source.checkpoint
    if checkpoint.lineage is not None:
        return checkpoint
    args = {key: checkpoint.args[key] for key in Args.model_fields if checkpoint.args.get(key) is not None}
    return replace(checkpoint, args=args, model_config=checkpoint.model_config or model_config_of(source.architecture))


def _measure(
    draft: OnnxDraft | OpenVinoDraft,
    description: Mapping[str, Any],
    source: Source,
    config: ExportConfig,
    pictures: Sequence[Image.Image],
    scores: Scores | None,
) -> dict[str, Any]:
    """Measure a file: runtime, differences and AP. UserError: it differs from its checkpoint."""
    side, images = source.architecture.resolution, description["images"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, *_ = draft.write(folder, {**description, "parity": {}})
        read_exported(path)
        # One thread, here and below: so every machine with this processor measures the same differences.
        session = open_session(path, threads=1)
        capability = torch.backends.cpu.get_cpu_capability()
        figures: dict[str, Any] = {
            "runtime": session.runtime,
            "precision": session.precision,
            "device": f"{session.device} ({capability})",
        }
        try:
            if description["precision"] == "fp32":
                opened = parity.FileWithTokens(
                    session, open_session(draft.write_with_tokens(folder), threads=1), images
                )
                with torch_threads(1):
                    differences = parity.compare(
                        opened, source.detector, source.architecture, pictures, config.batch_size
                    )
                figures["queries"] = differences.figures()
            elif config.batch_size is None:
                figures["batches"] = parity.compare_batches(session, images, side, [*pictures, *parity.noise()][0])
            figures["ap"] = _compare_ap(path, description["precision"], config, scores)
        except UserError as error:
            raise UserError(f"{draft.name} is not exported, since it differs from its checkpoint: {error}") from None
    return figures


def _compare_ap(path: Path, precision: str, config: ExportConfig, scores: Scores | None) -> dict[str, Any]:
    """The AP of a file and of its checkpoint. UserError: the file's is lower by more than max_drop."""
    if scores is None:
        return {"proven": False, "reason": "no split was given to score the file on"}
    limit = config.max_drop if config.max_drop is not None else FP32_DROP if precision == "fp32" else OTHER_DROP
    file_scores = scores.of_predictor(ExportedPredictor.from_file(path, device="cpu"))
    result: dict[str, Any] = {"split": scores.split, "images": len(scores.samples), "max_drop": limit}
    pairs = {"boxes": (scores.source.get("map"), file_scores["map"])}
    if scores.source.get("masks") is not None:
        pairs["masks"] = (scores.source["masks"]["map"], file_scores["masks"]["map"])
    for kind, (before, after) in pairs.items():
        result[kind] = {"source": before, "file": after}
        if before and not (after is not None and 100 * (before - after) <= limit):
            lost = "has no AP" if after is None else f"loses {100 * (before - after):.2f} points of AP"
            file_ap = "none" if after is None else f"{after:.4f}"
            raise UserError(
                f"on {scores.split} it {lost} ({kind}: checkpoint {before:.4f}, file {file_ap}), more than "
                f"export.max_drop: {limit:g}. Allow more, or remove the format from export.formats."
            )
    if all(before for before, _ in pairs.values()):
        return result | {"proven": True}
    measured = all(before is not None for before, _ in pairs.values())
    reason = "the checkpoint has an AP of 0 on this split" if measured else "the split has no object"
    return result | {"proven": False, "reason": reason}


def _calibration_batches(calibration: Calibration, config: ExportConfig, architecture: Architecture) -> Iterator[Array]:
    images = config.images if config.postprocess else "normalised"
    for path in calibration.digests:
        pictures = [calibration.read(path)] * (config.batch_size or 1)
        yield as_input(pictures, images, architecture.resolution)


def _facts(path: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a file in export.json."""
    facts = {"sha256": files.sha256_file(path), "md5": files.md5_file(path), "size": path.stat().st_size}
    if path.suffix == ".bin":
        return facts | {"of": path.with_suffix(".xml").name}
    keys = ("precision", "postprocess", "images", "batch_size", "packages", "parity", "calibration")
    return facts | {key: description[key] for key in keys if key in description}


def valid_pictures(where: ProjectPaths) -> list[Image.Image]:
    """Up to COMPARED pictures, evenly spread over the valid split of a dataset."""
    samples = read_samples(*where.split("valid"))
    count = min(COMPARED, len(samples))
    chosen = [samples[number * len(samples) // count] for number in range(count)]
    return [read_picture(where.dataset, sample.path, sample.sha256) for sample in chosen]


def read_picture(dataset: Path, path: str, sha256: str) -> Image.Image:
    """Read an image of a dataset.

    Args:
        dataset: the dataset folder.
        path: the image, below the dataset folder.
        sha256: its digest in the manifest.

    Raises:
        UserError: the image does not have this digest.
    """
    return images.decode(images.read_verified(dataset / path, sha256), path, max_pixels=None)
