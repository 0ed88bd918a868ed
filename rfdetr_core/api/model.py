"""RF-DETR as Python classes, one per variant, over the same functions that the pipeline runs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, TypeVar, overload

import torch

from rfdetr_core.api.configs import COCO_CLASS_ROWS, VARIANT_CONFIGS, TrainSettings, VariantConfig, device_name
from rfdetr_core.api.signatures import constructor, show_evaluate, show_train
from rfdetr_core.api.training import (
    AnyPath,
    Plan,
    as_path,
    check_dataset,
    evaluation_settings,
    find_weights,
    prepare_dataset,
    process_restored,
    refuse_results,
    sizes_of,
    take_models,
    train_config_of,
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

    pretrain_weights: the path of a checkpoint, a published name, or None for a new, untrained model; by default the
    published weights of the variant, which are downloaded once (see `find_weights`). Pico has none: it is new.
    num_classes, resolution, and the other fields of ModelSettings: None keeps what the weights were trained with, or
    the variant's own number.

    Raises:
        UserError: an unknown keyword, a value of the wrong type or range, a device that is not here, or weights that
            cannot be fetched, are damaged, or belong to another variant.
    """

    variant: ClassVar[str] = ""
    _optimised: Predictor | None = None  # what predict runs instead of the exact one
    size: ClassVar[str | None] = None  # upstream's name of the variant, such as rfdetr-nano

    def __init__(self, **settings: Unpack[keywords.ModelKeywords]) -> None:
        config = self.get_model_config(**settings)
        device = find_device(config.device)
        path = find_weights(config.pretrain_weights)
        self._build(config, device, read_checkpoint(path) if path else None, settings)

    def _build(
        self, config: VariantConfig, device: str, checkpoint: Checkpoint | None, given: Mapping[str, Any]
    ) -> None:
        """Make the detector. given: the keywords of the caller, which win over what the weights were trained with."""
        trained = trained_sizes(checkpoint, self.variant).items()
        self._section = config.section.model_copy(update={key: one for key, one in trained if given.get(key) is None})
        self.weights = checkpoint.path.absolute() if checkpoint and checkpoint.path else None  # after a chdir, too
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
        """The config that the keywords of the class give, before weights are read."""
        if not cls.variant:
            known = ", ".join(variant.name for variant in VARIANTS.values())
            raise UserError(f"{cls.__name__} is the base class. Use a variant: {known}.")
        return VARIANT_CONFIGS[cls.variant](**settings)

    @property
    def model_config(self) -> VariantConfig:
        """The config of the model as it is now, every number filled in."""
        architecture = self.architecture
        values = vars(self._section) | sizes_of(architecture) | {"num_classes": architecture.classes}
        values |= {"pretrain_weights": self.weights, "device": self._predictor.device}
        return VARIANT_CONFIGS[self.variant](**{key: value for key, value in values.items() if key != "variant"})

    def maybe_download_pretrain_weights(self) -> None:
        """Check that the file of `pretrain_weights` is there, and fetch it if it is a published one.

        The constructor has done so; the file may have been removed since.

        Raises:
            UserError: see `find_weights`.
        """
        find_weights(self.weights)

    @classmethod
    def from_checkpoint(cls, path: AnyPath, **settings: Unpack[keywords.ModelKeywords]) -> Self:
        """The model of a file, as the class of its variant; `settings` are those of the class.

        The file is a checkpoint, or a .onnx or .xml file that was exported from one. An exported file takes only
        `device`. It predicts and is evaluated as a checkpoint is; it cannot be trained, optimised or exported.

        Raises:
            UserError: no model file, its variant is unknown or not this class, or see the class; or the runtime of an
                exported file is not installed.
        """
        given: dict[str, Any] = {**settings}
        if "pretrain_weights" in given:
            raise UserError("from_checkpoint() takes the weights of its path. Leave out pretrain_weights.")
        device = device_name(given.get("device")) or "auto"
        path = as_path(path, "path")
        if path.suffix in SUFFIXES:
            return cls._of_exported(path, **given | {"device": device})
        device = find_device(device)
        checkpoint = read_checkpoint(path)
        found = cls._variant_of(path, architecture_of(checkpoint).name)
        model = found.__new__(found)
        model._build(found.get_model_config(**given | {"pretrain_weights": path}), device, checkpoint, given)
        return model

    @classmethod
    def _of_exported(cls, path: Path, *, device: str, **settings: Any) -> Self:
        if settings:
            raise UserError(f"{path} is an exported file: {', '.join(settings)} cannot be changed. Give only device.")
        predictor = ExportedPredictor.from_file(path, device=device)
        found = cls._variant_of(path, predictor.architecture.name)
        model = found.__new__(found)  # without a detector, which __init__ builds
        sizes = sizes_of(predictor.architecture)
        model._section = parse(ModelConfig, sizes | {"variant": found.variant}, str(path))
        model.weights, model.data, model._predictor, model._optimised = path.absolute(), None, predictor, None
        model.callbacks = defaultdict(list)
        return model

    @classmethod
    def _variant_of(cls, path: AnyPath, name: str) -> type[Self]:
        """This class if it is of that name, or else that one. UserError: there is none, or it is another one."""
        found: Any = globals().get(name)
        if not isinstance(found, type) or not issubclass(found, RFDETR):
            raise UserError(f"{path} is a {name}, which is no variant here. Known: {', '.join(VARIANTS)}.")
        if issubclass(cls, found):
            return cls
        if not issubclass(found, cls):
            raise UserError(f"{path} is a {name}, not a {cls.__name__}. Use {name} or rfdetr_core.load.")
        return found

    def _torch_predictor(self, caller: str) -> Predictor:
        """The predictor with the torch module. Raises a UserError of an exported file, which has none."""
        if isinstance(self._predictor, Predictor):
            return self._predictor
        raise UserError(
            f"{caller} needs a checkpoint, and {self.weights} is a file that was exported from one: it can only "
            "predict and be evaluated. Load the checkpoint (.pth) instead."
        )

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
        """Validate and convert a dataset, train from the pretrain_weights, select, strip, and hold the best weights.

        `settings`: the fields of TrainSettings, such as dataset_dir (required), epochs, batch_size, grad_accum_steps,
        lr; and of the model's, resolution, freeze_encoder and gradient_checkpointing. Into `output_dir` go the files of
        a run, checkpoint_best_total.pth among them; it may not be where a dvc.yaml has its results. The classes are the
        dataset's. Links in `dataset_dir` may lead out of it into the cache of the DVC project that it is in, and
        nowhere else. `resume` is the path of a checkpoint.pth; `run_test` evaluates the test split at the end. The
        functions in `callbacks` are called with the values of an epoch ("on_fit_epoch_end") or of the last one
        ("on_train_end"). What a training sets in the process, such as torch's deterministic mode and the number of
        threads, is restored.

        Raises:
            UserError: an unknown keyword, a numbered device, a folder of a pipeline, a fault of the dataset, or of the
                training.
        """
        from rfdetr_core.observers.history import run_files
        from rfdetr_core.observers.publishing import track_evaluation
        from rfdetr_core.training.record import sole_writer

        device = self._torch_predictor("train()").device
        planned = Plan.of(self._section, self.weights, device, dict(settings), self.callbacks)
        output = planned.output
        with sole_writer(output):  # from the first file to the last: another's dataset would be trained on or scored
            self.data = prepare_dataset(planned.dataset, output / "dataset", planned.weights.parent)
            best = planned.run(self.data, self.callbacks)
            self._section = planned.model
            self._predictor, self._optimised = Predictor.from_checkpoint(best, device=device), None
            if planned.settings.run_test:
                self.evaluate("test", output_dir=output)
                track_evaluation(self.data, output, output / "evaluate", planned.settings.runtime)
        say(*run_files(output).split("\n"), f"use: python -m rfdetr_core predict {best} IMAGE")

    def get_train_config(self, **settings: Unpack[keywords.TrainKeywords]) -> TrainSettings:
        """The config that `train` makes of its keywords, without those of the model. UserError: as `train`."""
        return train_config_of(dict(settings), self._section.variant)

    def optimize_for_inference(
        self,
        compile: bool = True,  # noqa: A002 - upstream's name
        batch_size: int = 1,
        dtype: torch.dtype | str = torch.float32,
        *,
        inplace: bool = False,
        compile_backend: str | None = None,
    ) -> None:
        """Let `predict` run a copy of the model that is faster, and whose numbers are close but not the same.

        dtype: of the encoder and the projector: torch.bfloat16, on CUDA torch.float16 too, or its name. batch_size:
        images that go through the model at a time; unlike upstream, `predict` takes any number of them. compile: on
        CUDA alone; it takes a while, and lasts until the process ends. `evaluate` and `model` stay with the model
        itself. `train` and `remove_optimized_model` remove the copy. inplace, compile_backend: see `check_upstreams`.

        Raises:
            UserError: another dtype or batch_size, inplace, or it cannot be compiled here.
        """
        own = self._torch_predictor("optimize_for_inference()")
        check_upstreams(inplace, compile_backend, own.device)
        self._optimised = own.optimised(compiled=compile, batch_size=batch_size, dtype=dtype)

    inference = optimize_for_inference  # its name from upstream's 1.11 on

    def remove_optimized_model(self) -> None:
        """Let `predict` run the model itself again."""
        self._optimised = None

    @overload
    def predict(
        self,
        images: list[P] | tuple[Picture, ...],  # a list[Path] is no list[Picture]
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
        """Objects with a score above `threshold`: one supervision.Detections for one image, a list for a list.

        images: paths, https addresses, PIL images, RGB arrays (H, W, 3) of uint8, RGB tensors (3, H, W). shape,
        patch_size, include_source_image, and what detections have: see `BasePredictor.predict`. threshold: a number;
        one for each class by its name; the path of a thresholds.json; "recommended" for the file that belongs to the
        checkpoint: thresholds.json beside it, or that of the project it is in; None for the number that the weights
        carry. batch_size: images that go through the model at a time; None: 1, so that a list gives the bits that its
        images give alone, or the number of the optimised copy.

        Raises:
            UserError: an image that cannot be read or fetched; an unknown keyword, or a value that is refused; no file
                of thresholds, or one that is malformed or of another model.
        """
        refuse_unknown(unknown)
        if isinstance(threshold, str | os.PathLike):
            threshold = recommended_thresholds(threshold, self._predictor).by_class
        predictor = self._optimised or self._predictor
        return predictor.predict(images, threshold, shape, patch_size, include_source_image, batch_size=batch_size)

    @show_evaluate
    def evaluate(self, split: str = "test", **settings: Unpack[keywords.EvaluateKeywords]) -> dict[str, Any]:
        """COCO's numbers on a split of `dataset_dir`, or of the dataset trained on; a report to `output_dir`/evaluate.

        split: test, or valid, for which upstream says val. `settings`: dataset_dir, output_dir, and the other fields of
        EvaluateConfig, such as pictures. Keywords of `train` are taken, too, and those that change nothing here are
        named in a note. The result has what metrics.json and about.json have, and the values under the names that
        upstream gives them, such as test/mAP_50_95.

        Raises:
            UserError: an unknown keyword, no dataset, a fault of it, or classes, a device or a resolution that are not
                the model's.
        """
        from rfdetr_core.evaluation.evaluate import evaluate
        from rfdetr_core.training.record import sole_writer

        given, data = dict(settings), self.data
        unused = take_models(given, {"device": self._predictor.device, "resolution": self.architecture.resolution})
        config, others = evaluation_settings(split, given, self._section.variant)
        dataset = as_path(given["dataset_dir"], "dataset_dir") if given.get("dataset_dir") is not None else None
        output = as_path(given.get("output_dir", "output"), "output_dir")
        refuse_results(output / "evaluate")
        if dataset is None and data is None:
            raise UserError("evaluate() needs dataset_dir: this model was not trained here.")
        if dataset is not None:
            check_dataset(dataset)
        if unused := sorted({*unused, *others} - {"device", "resolution"}):
            say(f"evaluate() does not use {', '.join(unused)}")
        with sole_writer(output):
            if dataset is not None:
                data = prepare_dataset(dataset, output / "dataset")
            assert data is not None
            found = evaluate(self._predictor, data, config, output / "evaluate")
        start = "val" if found["split"] == "valid" else "test"
        kinds = ("", "segm_") if self.architecture.segmentation else ("",)
        named = {f"{start}/{kind}{name}": found[kind + key] for kind in kinds for name, key in REPORTED.items()}
        return found | named

    def export(
        self,
        output_dir: AnyPath = "output",
        *,
        batch_size: int = 1,
        dynamic_batch: bool = False,
        **arguments: Unpack[keywords.ExportKeywords],
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

        output, sizes = as_path(output_dir, "output_dir"), {"batch_size": batch_size, "dynamic_batch": dynamic_batch}
        own = self._torch_predictor("export()")
        refuse_results(output)
        return export_model(own, output, sizes | dict(arguments), self.data)


load = from_checkpoint = RFDETR.from_checkpoint


def _variant(variant: str, architecture: Architecture) -> type[RFDETR]:
    doc = f"RF-DETR {variant}: {architecture.resolution} pixels, {architecture.weights_file or 'no published weights'}."
    size = "rfdetr-large" if variant == "large-deprecated" else f"rfdetr-{variant}"  # of both, as upstream
    names: dict[str, Any] = {"variant": variant, "size": size, "__doc__": doc, "__module__": __name__}
    names["__init__"] = constructor(RFDETR.__init__, variant)
    return type(architecture.name, (RFDETR,), names)


globals().update({architecture.name: _variant(variant, architecture) for variant, architecture in VARIANTS.items()})
