"""The model classes, one for each variant. They call the same functions as the pipeline."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, TypeVar, overload

import torch

from rfdetr_core.api.configs import COCO_CLASS_ROWS, VARIANT_CONFIGS, VariantConfig, device_name
from rfdetr_core.api.signatures import constructor, show_evaluate, show_train
from rfdetr_core.api.training import (
    AnyPath,
    Plan,
    as_path,
    check_dataset,
    evaluation_settings,
    find_weights,
    pop_model_keywords,
    prepare_dataset,
    process_restored,
    refuse_results,
    sizes_of,
    trained_sizes,
)
from rfdetr_core.api.upstream import UpstreamMembers
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.params import parse
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.exported import SUFFIXES
from rfdetr_core.checkpoint.files import Checkpoint, read_checkpoint
from rfdetr_core.checkpoint.loading import architecture_of, class_names_of, load_weights, threshold_of
from rfdetr_core.inference.arguments import check_upstreams, refuse_unknown
from rfdetr_core.inference.conversion import Picture
from rfdetr_core.inference.exported import ExportedPredictor
from rfdetr_core.inference.predictor import BasePredictor, Predictor, Threshold, find_device
from rfdetr_core.inference.thresholds import recommended_thresholds
from rfdetr_core.metrics.names import REPORTED
from rfdetr_core.model.config import VARIANTS, Architecture, ModelConfig
from rfdetr_core.model.detector import Detector, build_detector

if TYPE_CHECKING:
    from typing import Unpack

    import supervision

    from rfdetr_core.api import keywords

P = TypeVar("P", bound=Picture)


class RFDETR(UpstreamMembers):
    """An RF-DETR model of one variant: use a subclass, such as RFDETRNano.

    Args:
        pretrain_weights: The path of a checkpoint, a published name, or None for a new, untrained model. The default is
            the published file of the variant, which is downloaded once (see `find_weights`). Pico has none: it is new.
        settings: num_classes, resolution, device and the other fields of ModelSettings. None keeps the value that the
            weights were trained with, or the variant's default.

    Raises:
        UserError: a keyword is unknown; a value has the wrong type or range; this machine lacks the device; or the
            weights cannot be downloaded, are damaged, or belong to another variant.
    """

    variant: ClassVar[str] = ""
    _optimised: Predictor | None = None  # if set, predict uses it instead of the exact model
    size: ClassVar[str | None] = None  # upstream's name of the variant, such as rfdetr-nano

    def __init__(self, **settings: Unpack[keywords.ModelKeywords]) -> None:
        config = self.get_model_config(**settings)
        device = find_device(config.device)
        path = find_weights(config.pretrain_weights)
        self._build(config, device, read_checkpoint(path) if path else None, settings)

    def _build(
        self, config: VariantConfig, device: str, checkpoint: Checkpoint | None, overrides: Mapping[str, Any]
    ) -> None:
        """Build the detector. overrides: the caller's keywords; they replace the values of the trained weights."""
        trained = trained_sizes(checkpoint, self.variant).items()
        self._section = config.section.model_copy(
            update={key: size for key, size in trained if overrides.get(key) is None}
        )
        # Absolute, so that a chdir does not matter.
        self.weights = checkpoint.path.absolute() if checkpoint and checkpoint.path else None
        self.data: ProjectPaths | None = None
        self.callbacks: dict[str, list[Callable[[dict[str, float]], object]]] = defaultdict(list)
        stored = len(checkpoint.weights["class_head.bias"]) - 1 if checkpoint else COCO_CLASS_ROWS
        classes = config.num_classes or stored
        architecture = self._section.architecture(classes)
        detector = build_detector(architecture)
        names, threshold = tuple(map(str, range(classes))), None
        if checkpoint is not None:
            report = load_weights(detector, architecture, checkpoint)
            if report.missing:
                raise UserError(f"{checkpoint.path} is incomplete: it lacks {', '.join(report.missing[:3])}.")
            if classes == stored:
                names, threshold = class_names_of(checkpoint), threshold_of(checkpoint)
        self._predictor: BasePredictor = Predictor(
            detector.eval(), architecture, names, device=device, threshold=threshold, source=self.weights
        )

    @classmethod
    def get_model_config(cls, **settings: Unpack[keywords.ModelKeywords]) -> VariantConfig:
        """The config of the keywords, before the weights are read."""
        if not cls.variant:
            variant_names = ", ".join(variant.name for variant in VARIANTS.values())
            raise UserError(f"{cls.__name__} is the base class. Use a variant: {variant_names}.")
        return VARIANT_CONFIGS[cls.variant](**settings)

    @property
    def model_config(self) -> VariantConfig:
        """The config of the current model; no number is None."""
        architecture = self.architecture
        values = vars(self._section) | sizes_of(architecture) | {"num_classes": architecture.classes}
        values |= {"pretrain_weights": self.weights, "device": self._predictor.device}
        return VARIANT_CONFIGS[self.variant](**{key: value for key, value in values.items() if key != "variant"})

    @classmethod
    def from_checkpoint(cls, path: AnyPath, **settings: Unpack[keywords.ModelKeywords]) -> Self:
        """Load a model file, as the class of its variant. `settings`: the keywords of the class.

        The file is a checkpoint, or a .onnx or .xml file that was exported from one. An exported file takes only
        `device`; its model can predict and be evaluated, but not be trained, optimised or exported.

        Raises:
            UserError: the file is not a model file; its variant is unknown or not this class; the runtime of an
                exported file is not installed; or the constructor raises an error.
        """
        overrides: dict[str, Any] = {**settings}
        if "pretrain_weights" in overrides:
            raise UserError("from_checkpoint() loads the weights from its path. Leave out pretrain_weights.")
        device = device_name(overrides.get("device")) or "auto"
        path = as_path(path, "path")
        if path.suffix in SUFFIXES:
            return cls._from_exported_file(path, **overrides | {"device": device})
        device = find_device(device)
        checkpoint = read_checkpoint(path)
        model_class = cls._class_of_variant(path, architecture_of(checkpoint).name)
        model = model_class.__new__(model_class)
        config = model_class.get_model_config(**overrides | {"pretrain_weights": path})
        model._build(config, device, checkpoint, overrides)
        return model

    @classmethod
    def _from_exported_file(cls, path: Path, *, device: str, **settings: Any) -> Self:
        if settings:
            raise UserError(f"{path} is an exported file: {', '.join(settings)} cannot be changed. Give only device.")
        predictor = ExportedPredictor.from_file(path, device=device)
        model_class = cls._class_of_variant(path, predictor.architecture.name)
        model = model_class.__new__(model_class)  # not by __init__, which would build a detector
        sizes = sizes_of(predictor.architecture)
        model._section = parse(ModelConfig, sizes | {"variant": model_class.variant}, str(path))
        model.weights, model.data, model._predictor, model._optimised = path.absolute(), None, predictor, None
        model.callbacks = defaultdict(list)
        return model

    @classmethod
    def _class_of_variant(cls, path: AnyPath, name: str) -> type[Self]:
        """The class of a variant: `cls` or a subclass. UserError: the variant is unknown or is of another class."""
        model_class: Any = globals().get(name)
        if not isinstance(model_class, type) or not issubclass(model_class, RFDETR):
            raise UserError(f"{path} is a {name}, an unknown variant. Known variants: {', '.join(VARIANTS)}.")
        if issubclass(cls, model_class):
            return cls
        if not issubclass(model_class, cls):
            raise UserError(f"{path} is a {name}, not a {cls.__name__}. Use {name} or rfdetr_core.load.")
        return model_class

    @property
    def model(self) -> Detector:
        """The torch module: normalised images (B, 3, H, W) to DetectorOutput."""
        return self._torch_predictor("model").detector

    @property
    def architecture(self) -> Architecture:
        """The numbers that shape the model."""
        return self._predictor.architecture

    @property
    def class_names(self) -> list[str]:
        """The name of each class label."""
        return list(self._predictor.class_names)

    @show_train
    @process_restored()
    def train(self, **settings: Unpack[keywords.TrainKeywords]) -> None:
        """Train on a dataset. Afterwards the model has the best weights.

        It validates and converts the dataset, trains from pretrain_weights, chooses the winner of the two tracks, and
        strips it. The classes are those of the dataset. At the end, the settings of the process are restored, such as
        torch's deterministic mode and the number of threads.

        `settings` are the fields of TrainSettings (epochs, batch_size, grad_accum_steps, lr and more), and resolution,
        freeze_encoder and gradient_checkpointing of the model:
        dataset_dir: Required. Links in it may lead only into the cache of the DVC project that it is in.
        output_dir: Receives the files of the run. It must not hold results of a pipeline.
        resume: The path of a checkpoint.pth.
        run_test: Evaluate the test split at the end.

        Functions in `callbacks` get the values of each epoch ("on_fit_epoch_end") or of the last ("on_train_end").

        Raises:
            UserError: a keyword is unknown, the device has a number, output_dir has results of a pipeline, the dataset
                has an error, or the training fails.
        """
        from rfdetr_core.observers.history import run_files
        from rfdetr_core.observers.publishing import track_evaluation
        from rfdetr_core.training.record import sole_writer

        device = self._torch_predictor("train()").device
        planned = Plan.from_keywords(self._section, self.weights, device, dict(settings), self.callbacks)
        output = planned.output
        with sole_writer(output):  # for all files: otherwise another process could replace the dataset in between
            self.data = prepare_dataset(planned.dataset, output / "dataset", planned.weights.parent)
            best = planned.run(self.data, self.callbacks)
            self._section = planned.model
            self._predictor, self._optimised = Predictor.from_checkpoint(best, device=device), None
            if planned.settings.run_test:
                self.evaluate("test", output_dir=output)
                track_evaluation(self.data, output, output / "evaluate", planned.settings.runtime)
        say(*run_files(output).split("\n"), f"use: python -m rfdetr_core predict {best} IMAGE")

    def optimize_for_inference(
        self,
        compile: bool = True,  # noqa: A002 - upstream's name
        batch_size: int = 1,
        dtype: torch.dtype | str = torch.float32,
        *,
        inplace: bool = False,
        compile_backend: str | None = None,
    ) -> None:
        """Make a faster copy of the model, which `predict` uses. Its numbers are close to the exact ones, not equal.

        `evaluate` and `model` use the exact model. `train` and `remove_optimized_model` remove the copy.

        Args:
            compile: Compile the copy with torch.compile, on CUDA only. It takes a while, once for each process.
            batch_size: Images that go through the model at a time. `predict` still takes any number of images.
            dtype: The type of encoder and projector: torch.bfloat16, on CUDA also torch.float16, or its name.
            inplace: Upstream's keyword. True is an error here: the exact model is still needed.
            compile_backend: Upstream's name of a compiler. It is only checked.

        Raises:
            UserError: dtype, batch_size or inplace has another value, or this machine cannot compile.
        """
        predictor = self._torch_predictor("optimize_for_inference()")
        check_upstreams(inplace, compile_backend, predictor.device)
        self._optimised = predictor.optimised(compiled=compile, batch_size=batch_size, dtype=dtype)

    inference = optimize_for_inference  # its name since upstream 1.11

    def remove_optimized_model(self) -> None:
        """Let `predict` use the exact model again."""
        self._optimised = None

    @overload
    def predict(
        self,
        images: list[P] | tuple[Picture, ...],  # a list[Path] is not a list[Picture]
        threshold: Threshold | AnyPath | None = None,
        shape: tuple[int, int] | None = None,
        patch_size: int | None = None,
        include_source_image: bool = True,
        *,
        batch_size: int | None = None,
    ) -> list[supervision.Detections]: ...
    @overload
    def predict(
        self,
        images: Picture,
        threshold: Threshold | AnyPath | None = None,
        shape: tuple[int, int] | None = None,
        patch_size: int | None = None,
        include_source_image: bool = True,
        *,
        batch_size: int | None = None,
    ) -> supervision.Detections: ...
    def predict(
        self,
        images: Picture | list[Any] | tuple[Picture, ...],
        threshold: Threshold | AnyPath | None = None,
        shape: tuple[int, int] | None = None,
        patch_size: int | None = None,
        include_source_image: bool = True,
        *,
        batch_size: int | None = None,
        **unknown: Never,
    ) -> supervision.Detections | list[supervision.Detections]:
        """Find objects with a score above `threshold`: a supervision.Detections for one image, a list for a list.

        Args:
            images: Paths, https addresses, PIL images, RGB arrays (H, W, 3) of uint8, or RGB tensors (3, H, W).
            threshold: A number; a mapping from class name to number; the path of a thresholds.json; "recommended" for
                the thresholds.json beside the checkpoint or in its project; None for the number in the checkpoint.
            shape, patch_size, include_source_image: See `BasePredictor.predict`.
            batch_size: Images that go through the model at a time. None: the batch_size of the optimised copy, else 1;
                with 1, an image in a list gives the same bits as alone.

        Raises:
            UserError: an image that cannot be read or downloaded; an unknown keyword or a refused value; a file of
                thresholds that is missing, malformed or of another model.
        """
        refuse_unknown(unknown)
        if isinstance(threshold, str | os.PathLike):
            threshold = recommended_thresholds(threshold, self._predictor).by_class
        predictor = self._optimised or self._predictor
        return predictor.predict(images, threshold, shape, patch_size, include_source_image, batch_size=batch_size)

    @show_evaluate
    def evaluate(self, split: str = "test", **settings: Unpack[keywords.EvaluateKeywords]) -> dict[str, Any]:
        """Compute the COCO metrics on a split of `dataset_dir`, or of the dataset of the training.

        The report goes to `output_dir`/evaluate. The result has the content of metrics.json and about.json, and the
        values under upstream's names, such as test/mAP_50_95.

        Args:
            split: test or valid; upstream's name val means valid.
            settings: dataset_dir, output_dir, and the fields of EvaluateConfig, such as pictures. Keywords of `train`
                are accepted; a note names those that have no effect here.

        Raises:
            UserError: a keyword is unknown; there is no dataset, or it has an error; or its classes, the device or the
                resolution are not those of the model.
        """
        from rfdetr_core.evaluation.evaluate import evaluate
        from rfdetr_core.training.record import sole_writer

        remaining, data = dict(settings), self.data
        unused = pop_model_keywords(
            remaining, {"device": self._predictor.device, "resolution": self.architecture.resolution}
        )
        config, unused_training_keys = evaluation_settings(split, remaining, self._section.variant)
        dataset = as_path(remaining["dataset_dir"], "dataset_dir") if remaining.get("dataset_dir") is not None else None
        output = as_path(remaining.get("output_dir", "output"), "output_dir")
        refuse_results(output / "evaluate")
        if dataset is None and data is None:
            raise UserError("evaluate() needs dataset_dir, since this model was not trained in this process.")
        if dataset is not None:
            check_dataset(dataset)
        if unused := sorted({*unused, *unused_training_keys} - {"device", "resolution"}):
            say(f"evaluate() ignores {', '.join(unused)}")
        with sole_writer(output):
            if dataset is not None:
                data = prepare_dataset(dataset, output / "dataset")
            assert data is not None
            scores = evaluate(self._predictor, data, config, output / "evaluate")
        start = "val" if scores["split"] == "valid" else "test"
        kinds = ("", "segm_") if self.architecture.segmentation else ("",)
        named = {f"{start}/{kind}{name}": scores[kind + key] for kind in kinds for name, key in REPORTED.items()}
        return scores | named

    def export(
        self,
        output_dir: AnyPath = "output",
        *,
        batch_size: int = 1,
        dynamic_batch: bool = False,
        **arguments: Unpack[keywords.ExportKeywords],
    ) -> Path:
        """Write a model file for another runtime and return its path. It is compared with the checkpoint.

        After a training, the AP of both files is also compared on the dataset of the training.

        Args:
            output_dir: The folder of the file.
            batch_size: Images that the file takes at a time.
            dynamic_batch: The file takes any number of images.
            arguments: format ("onnx", "openvino" or "onnx-int8"), quantization ("int8" means format "onnx-int8"),
                calibration_data (a folder of images for int8), max_images of it, shape (the resolution of the model),
                and postprocess, images, max_drop of ExportConfig.

        Raises:
            UserError: an argument that is unknown, wrong, or only upstream's; a package is not installed; the model was
                changed after it was read; the outputs of the file differ from the checkpoint's.
        """
        from rfdetr_core.export.model import export_model

        output, sizes = as_path(output_dir, "output_dir"), {"batch_size": batch_size, "dynamic_batch": dynamic_batch}
        predictor = self._torch_predictor("export()")
        refuse_results(output)
        return export_model(predictor, output, sizes | dict(arguments), self.data)


load = from_checkpoint = RFDETR.from_checkpoint


def _variant(variant: str, architecture: Architecture) -> type[RFDETR]:
    doc = f"RF-DETR {variant}: {architecture.resolution} pixels, {architecture.weights_file or 'no published weights'}."
    size = "rfdetr-large" if variant == "large-deprecated" else f"rfdetr-{variant}"  # upstream's name
    names: dict[str, Any] = {"variant": variant, "size": size, "__doc__": doc, "__module__": __name__}
    names["__init__"] = constructor(RFDETR.__init__, variant)
    return type(architecture.name, (RFDETR,), names)


globals().update({architecture.name: _variant(variant, architecture) for variant, architecture in VARIANTS.items()})
