"""RF-DETR as Python classes, one per variant, over the same functions that the pipeline runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import torch

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.exported import SUFFIXES
from rfdetr_core.checkpoint.files import Checkpoint, read_checkpoint
from rfdetr_core.checkpoint.loading import architecture_of, class_names_of, load_weights, threshold_of
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.config.settings import refuse_absent
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.inference.exported import ExportedPredictor
from rfdetr_core.inference.predictor import BasePredictor, Picture, Predictor, Threshold, find_device
from rfdetr_core.inference.thresholds import recommended
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.model.config import VARIANTS, Architecture, ModelConfig
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.selection.select import select
from rfdetr_core.selection.strip import strip
from rfdetr_core.training.config import RuntimeConfig, TrainConfig, check_together
from rfdetr_core.training.scripted import TrainSettings, process_restored

if TYPE_CHECKING:
    import supervision

AnyPath: TypeAlias = str | Path
COCO_CLASSES = 90  # of the published weights, and of a new model until it is trained


class RFDETR:
    """An RF-DETR model of one variant: use a subclass, such as RFDETRNano.

    pretrain_weights: the path of a checkpoint, a published name, or None for a new model. num_classes, resolution, and
    the other fields of ModelConfig: None keeps what the weights were trained with, or the variant's own number.
    device: cpu, cuda, mps, or auto for CUDA where there is one.

    Raises:
        UserError: an unknown keyword, a value of the wrong type or range, a device that is not here, or weights that
            are none or of another variant.
    """

    variant: ClassVar[str] = ""
    _optimised: Predictor | None = None  # what predict runs instead of the exact one

    def __init__(
        self,
        *,
        pretrain_weights: AnyPath | Checkpoint | None = None,
        num_classes: int | None = None,
        device: str = "auto",
        **settings: Any,
    ) -> None:
        if not self.variant:
            known = ", ".join(variant.name for variant in VARIANTS.values())
            raise UserError(f"{type(self).__name__} is no variant. Use one: {known}.")
        if "variant" in settings:
            raise UserError(f"variant is no keyword: {type(self).__name__} is one. Use the class of another variant.")
        if num_classes is not None and (type(num_classes) is not int or num_classes < 1):
            what = "a whole number, 1 or more; None keeps what the weights were trained with"
            raise UserError(f"num_classes is {num_classes!r}: it must be {what}.")
        device, checkpoint = find_device(device), _find(pretrain_weights)
        fields = ModelConfig.model_fields
        given = {key: value for key, value in settings.items() if value is not None or key not in fields}
        values = _told(checkpoint, self.variant) | given
        self.config = parse(ModelConfig, values | {"variant": self.variant}, type(self).__name__)
        self.weights = checkpoint.path if checkpoint else None
        self.data: ProjectPaths | None = None
        stored = len(checkpoint.weights["class_head.bias"]) - 1 if checkpoint else COCO_CLASSES
        classes = num_classes or stored
        architecture = self.config.architecture(classes)
        detector = build_detector(architecture)
        names, threshold = tuple(map(str, range(classes))), None
        if checkpoint is not None:
            report = load_weights(detector, architecture, checkpoint)
            if report.left:
                raise UserError(f"{checkpoint.path} is incomplete: it lacks {', '.join(report.left[:3])}.")
            if classes == stored:
                names, threshold = class_names_of(checkpoint), threshold_of(checkpoint)
        self._predictor: BasePredictor = Predictor(
            detector.eval(), architecture, names, device=device, threshold=threshold, source=self.weights
        )

    @classmethod
    def from_checkpoint(cls, path: AnyPath, **settings: Any) -> Self:
        """The model of a file, as the class of its variant; `settings` are those of the class.

        The file is a checkpoint, or a .onnx or .xml file that was exported from one. An exported file takes only
        `device`. It predicts and is evaluated as a checkpoint is; it cannot be trained, optimised or exported.

        Raises:
            UserError: no model file, its variant is unknown or not this class, or see the class; or the runtime of an
                exported file is not installed.
        """
        if _path(path, "path").suffix in SUFFIXES:
            return cls._of_exported(Path(path), **settings)
        find_device(settings.get("device", "auto"))
        checkpoint = read_checkpoint(Path(path))
        return cls._variant_of(path, architecture_of(checkpoint).name)(pretrain_weights=checkpoint, **settings)

    @classmethod
    def _of_exported(cls, path: Path, *, device: str = "auto", **settings: Any) -> Self:
        if settings:
            raise UserError(f"{path} is an exported file: {', '.join(settings)} cannot be changed. Give only device.")
        predictor = ExportedPredictor.from_file(path, device=device)
        found = cls._variant_of(path, predictor.architecture.name)
        model = found.__new__(found)  # without a detector, which __init__ builds
        sizes = _sizes(predictor.architecture)
        model.config = parse(ModelConfig, sizes | {"variant": found.variant}, str(path))
        model.weights, model.data, model._predictor = path, None, predictor
        return model

    @classmethod
    def _variant_of(cls, path: AnyPath, name: str) -> type[Self]:
        """The class of that name. Raises a UserError where there is none, or it is not this one."""
        found: Any = globals().get(name)
        if not isinstance(found, type) or not issubclass(found, RFDETR):
            raise UserError(f"{path} is a {name}, which is no variant here. Known: {', '.join(VARIANTS)}.")
        if not issubclass(found, cls):
            raise UserError(f"{path} is a {name}, not a {cls.__name__}. Use {name} or rfdetr_core.load.")
        return found

    def _own(self, what: str) -> Predictor:
        """The predictor with the torch module. Raises a UserError of an exported file, which has none."""
        if isinstance(self._predictor, Predictor):
            return self._predictor
        raise UserError(
            f"{what} needs a checkpoint, and {self.weights} is a file that was exported from one: it can only predict "
            "and be evaluated. Load the checkpoint (.pth) instead."
        )

    @property
    def model(self) -> Detector:
        """The torch module: normalised images (B, 3, H, W) to DetectorOutput."""
        return self._own("model").detector

    @property
    def architecture(self) -> Architecture:
        """The numbers that shape the model."""
        return self._predictor.architecture

    @property
    def class_names(self) -> list[str]:
        """The name of each class label."""
        return list(self._predictor.class_names)

    @process_restored()
    def train(self, *, dataset_dir: AnyPath, output_dir: AnyPath = "output", **settings: Any) -> None:
        """Validate and convert a dataset, train from the pretrain_weights, select, strip, and hold the best weights.

        `settings`: the fields of TrainConfig and RuntimeConfig, such as epochs, batch_size, grad_accum_steps, lr. Into
        `output_dir` go the files of a run, checkpoint_best_total.pth among them; it may not be where a dvc.yaml has its
        results. The classes are the dataset's. Links in `dataset_dir` may lead out of it into the cache of the DVC
        project that it is in, and nowhere else.
        `resume` is the path of a checkpoint.pth; `run_test` evaluates the test split at the end. What a training sets
        in the process, such as torch's deterministic mode and the number of threads, is restored.

        Raises:
            UserError: an unknown keyword, a numbered device, a folder of a pipeline, a fault of the dataset, or of the
                training.
        """
        from rfdetr_core.observers.history import run_files
        from rfdetr_core.observers.publishing import track_evaluation
        from rfdetr_core.training.compilation import code_generator
        from rfdetr_core.training.record import sole_writer
        from rfdetr_core.training.run import train_model
        from rfdetr_core.training.trainer import device_kind

        refuse_absent("train", settings.keys() - TrainSettings.model_fields.keys(), "train()")
        dataset, output = _path(dataset_dir, "dataset_dir"), _path(output_dir, "output_dir")
        device = self._own("train()").device
        kind, _, number = device.partition(":")
        if number not in ("", "0"):
            raise UserError(
                f"train() takes the first device, not {device}. Start Python with CUDA_VISIBLE_DEVICES={number}, and "
                f"give the device as {kind}."
            )
        weights, named = self.weights, self.weights.name if self.weights else None
        if settings.get("resume") is not None:
            weights, named = _path(settings["resume"], "resume"), None  # the state holds the weights
            if not weights.is_file():
                raise UserError(f"resume is {str(weights)!r}, which is no file. Give the path of a checkpoint.pth.")
            settings["resume"] = weights.name
        asked = parse(TrainSettings, {"accelerator": kind} | settings, "train()")
        values = asked.model_dump(mode="json")
        config = parse(TrainConfig, {key: values[key] for key in TrainConfig.model_fields}, "train()")
        runtime = parse(RuntimeConfig, {key: values[key] for key in RuntimeConfig.model_fields}, "train()")
        model = self.config.model_copy(update={"pretrain_weights": named})
        check_together(model, config)
        if config.compile != "off":
            code_generator(device_kind(config))
        _refuse_outs(output)
        _check_dataset(dataset)
        best = output / "checkpoint_best_total.pth"
        with sole_writer(output):  # from the first file to the last: another's dataset would be trained on or scored
            self.data = _prepare(dataset, output / "dataset")
            folder = weights.parent if weights else Path("weights")
            where = ProjectPaths(self.data.dataset, self.data.annotations, self.data.manifests, folder)
            train_model(where, model, config, runtime, output)
            selection = select(files.read_json(output / "scores.json"))
            files.write_json(output / "selection.json", selection)
            strip(output, selection, best, records=output / "records")
            self._predictor, self._optimised = Predictor.from_checkpoint(best, device=device), None
            if asked.run_test:
                self.evaluate("test", output_dir=output)
                track_evaluation(self.data, output, output / "evaluate", runtime)
        say(*run_files(output).split("\n"), f"use: python -m rfdetr_core predict {best} IMAGE")

    def optimize_for_inference(
        self,
        compile: bool = True,  # noqa: A002 - upstream's name
        batch_size: int = 1,
        dtype: torch.dtype | str = torch.float32,
    ) -> None:
        """Let `predict` run a copy of the model that is faster, and whose numbers are close but not the same.

        dtype: of the encoder and the projector: torch.bfloat16, on CUDA torch.float16 too, or its name. batch_size:
        images that go through the model at a time; unlike upstream, `predict` takes any number of them. compile: on
        CUDA alone; it takes a while, and lasts until the process ends. `evaluate` and `model` stay with the model
        itself. `train` and `remove_optimized_model` remove the copy.

        Raises:
            UserError: another dtype or batch_size, or it cannot be compiled here.
        """
        own = self._own("optimize_for_inference()")
        self._optimised = own.optimised(compiled=compile, batch_size=batch_size, dtype=dtype)

    inference = optimize_for_inference  # its name from upstream's 1.11 on

    def remove_optimized_model(self) -> None:
        """Let `predict` run the model itself again."""
        self._optimised = None

    def predict(
        self,
        images: Picture | list[Picture] | tuple[Picture, ...],
        threshold: Threshold | AnyPath | None = None,
        *,
        batch_size: int | None = None,
    ) -> supervision.Detections | list[supervision.Detections]:
        """Objects with a score above `threshold`: see `Predictor.predict`.

        threshold: a number; one for each class by its name; the path of a thresholds.json; "recommended" for the file
        that belongs to the checkpoint: thresholds.json beside it, or that of the project it is in; None for the number
        that the weights carry. batch_size: images that go through the model at a time; None: 1, so that a list gives
        the bits that its images give alone, or the number of the optimised copy.

        Raises:
            UserError: an image that cannot be read; no such file, or one that is malformed or of another model.
        """
        if isinstance(threshold, str | os.PathLike):
            threshold = recommended(threshold, self._predictor).by_class
        return (self._optimised or self._predictor).predict(images, threshold, batch_size=batch_size)

    def evaluate(
        self, split: str = "test", *, dataset_dir: AnyPath | None = None, output_dir: AnyPath = "output", **more: Any
    ) -> dict[str, Any]:
        """COCO's numbers on a split of `dataset_dir`, or of the dataset trained on; a report to `output_dir`/evaluate.

        `more`: the other fields of EvaluateConfig, such as pictures. The result: what metrics.json and about.json have.

        Raises:
            UserError: an unknown keyword, no dataset, a fault of it, or classes that are not the model's.
        """
        from rfdetr_core.evaluation.evaluate import evaluate
        from rfdetr_core.training.record import sole_writer

        config = parse(EvaluateConfig, {"split": split} | more, "evaluate()")
        output, data = _path(output_dir, "output_dir"), self.data
        _refuse_outs(output / "evaluate")
        if dataset_dir is None and data is None:
            raise UserError("evaluate() needs dataset_dir: this model was not trained here.")
        dataset = None if dataset_dir is None else _path(dataset_dir, "dataset_dir")
        if dataset is not None:
            _check_dataset(dataset)
        with sole_writer(output):
            if dataset is not None:
                data = _prepare(dataset, output / "dataset")
            assert data is not None
            return evaluate(self._predictor, data, config, output / "evaluate")

    def export(
        self, output_dir: AnyPath = "output", *, batch_size: int = 1, dynamic_batch: bool = False, **arguments: Any
    ) -> Path:
        """Write a file for another runtime, whose answers equal the checkpoint's, and give its path.

        The model is that of a file, or was trained here; after a training, the AP of both is compared on its dataset.
        batch_size: images that the file takes at a time; with dynamic_batch any number. `arguments`: format ("onnx",
        "openvino", "onnx-int8"; quantization="int8" means the last), calibration_data (a folder of images for int8) and
        max_images of it, shape (the resolution of the model), and postprocess, images, max_drop of ExportConfig.

        Raises:
            UserError: an argument that is unknown, wrong, or upstream's alone; a package is not installed; the model
                has changed since it was read; the file does not answer as the checkpoint does.
        """
        from rfdetr_core.export.model import export_model

        output, sizes = _path(output_dir, "output_dir"), {"batch_size": batch_size, "dynamic_batch": dynamic_batch}
        own = self._own("export()")
        _refuse_outs(output)
        return export_model(own, output, sizes | arguments, self.data)


load = from_checkpoint = RFDETR.from_checkpoint


def _path(value: Any, argument: str) -> Path:
    """The path that an argument gives. Raises a UserError where it is empty, or of another type."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{argument} is {value!r}: it must be one path, as text or a Path.")
    return Path(value)


def _find(weights: AnyPath | Checkpoint | None) -> Checkpoint | None:
    if weights is None or isinstance(weights, Checkpoint):
        return weights
    path = _path(weights, "pretrain_weights")
    found = resolve_weights(path.name, path.parent if path.parent != Path() or path.is_file() else Path("weights"))
    return read_checkpoint(found) if found else None


def _told(checkpoint: Checkpoint | None, variant: str) -> dict[str, Any]:
    """The settings that a file of the variant was trained with, as far as it tells."""
    if checkpoint is None or not checkpoint.model_config:
        return {}
    told = architecture_of(checkpoint)
    if told.name != VARIANTS[variant].name:
        return {}  # load_weights says what is wrong
    return _sizes(told)


def _sizes(told: Architecture) -> dict[str, Any]:
    """The fields of ModelConfig that an architecture has."""
    sizes = {"resolution": told.resolution, "num_queries": told.queries, "group_detr": told.groups}
    return sizes | {"num_channels": told.channels}


def _refuse_outs(output: Path) -> None:
    """Raise a UserError where a folder to write to holds results of a pipeline."""
    from rfdetr_core.verification.lock import refuse_outs

    refuse_outs(output, 'output_dir="runs/first"')


def _check_dataset(dataset: Path) -> None:
    """Raise a UserError of a dataset folder that is none, before the folder of results is made."""
    from rfdetr_core.ingest.folder import check_folder

    check_folder(dataset, (), "dataset_dir")


def _prepare(dataset: Path, folder: Path) -> ProjectPaths:
    """Validate and convert a dataset, as the first two stages do."""
    from rfdetr_core.ingest.convert import convert_dataset
    from rfdetr_core.ingest.validate import validate_dataset
    from rfdetr_core.report.dataset import write_page

    made = ProjectPaths(dataset, folder / "annotations", folder / "manifest", metadata=folder / "metadata")
    validate_dataset(
        dataset,
        ValidateConfig(),
        folder,
        made.manifests,
        option="dataset_dir",
        metadata=made.metadata,
        write_page=write_page,
    )
    convert_dataset(dataset, ValidateConfig(), made.manifests, made.annotations)
    return made


def _variant(variant: str, architecture: Architecture) -> type[RFDETR]:
    doc = f"RF-DETR {variant}: {architecture.resolution} pixels, {architecture.weights_file or 'no published weights'}."
    return type(architecture.name, (RFDETR,), {"variant": variant, "__doc__": doc, "__module__": __name__})


globals().update({architecture.name: _variant(variant, architecture) for variant, architecture in VARIANTS.items()})
__all__ = sorted(["RFDETR", "from_checkpoint", "load", *(architecture.name for architecture in VARIANTS.values())])
