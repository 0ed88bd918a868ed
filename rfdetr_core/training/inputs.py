"""The inputs of a training: the files of earlier stages, read and checked, and the initial weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback
from torch import Tensor

from rfdetr_core.base import files
from rfdetr_core.base.errors import UserError, listed
from rfdetr_core.base.manifest import read_classes
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import Checkpoint, make_checkpoint, read_checkpoint
from rfdetr_core.checkpoint.loading import load_weights
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.data.batching import multi_scale_sizes
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.metrics.names import column_of
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.model.detector import Detector, build_detector
from rfdetr_core.training import compilation, record
from rfdetr_core.training.callbacks import TrainScoring
from rfdetr_core.training.config import RuntimeConfig, TrainConfig, check_together
from rfdetr_core.training.portable import use_portable
from rfdetr_core.training.trainer import device_kind, devices_per_node, with_batch_size


@dataclass(frozen=True)
class Inputs:
    """The inputs of a training.

    requested: the section `train` as the user wrote it. config: the same with numbers instead of `batch_size: auto`.
    sizes: the input sizes of multi-scale training. data: the arguments of TrainingData.
    """

    where: ProjectPaths
    model: ModelConfig
    requested: TrainConfig
    config: TrainConfig
    runtime: RuntimeConfig
    architecture: Architecture
    classes: list[str]
    sizes: list[int]
    data: dict[str, Any]

    @property
    def samples(self) -> dict[str, list[Sample]]:
        """The images of train and valid, with their annotations."""
        return {"train": self.data["train_samples"], "valid": self.data["valid_samples"]}

    @property
    def metric(self) -> str:
        """The column of history.csv, without val/, whose value chooses the best epoch."""
        return column_of(self.config.best_model_metric, masks=self.architecture.segmentation)

    def detector(self) -> tuple[Detector, tuple[str, ...]]:
        """The network with its initial weights, and messages about their source. Seeds torch's generator."""
        torch.manual_seed(mixed_seed("weights", self.config.seed))
        economy = {"gradient_checkpointing": self.model.gradient_checkpointing}
        economy["freeze_encoder"] = self.model.freeze_encoder
        detector = build_detector(self.architecture, drop_path=self.config.drop_path, **economy)
        start: tuple[str, ...] = ("training from scratch: no pretrain_weights",)
        if (parent := resolve_weights(self.model.pretrain_weights, self.where.weights)) is not None:
            report = load_weights(detector, self.architecture, read_checkpoint(parent), self.classes)
            start = (f"training from the weights of {parent}", *(f"  {line}" for line in report.describe().split("\n")))
        _print_images_with_too_many_objects([*self.samples["train"], *self.samples["valid"]], self.architecture.queries)
        if self.config.compile != "off":
            compilation.compile_regions(detector)
        return detector, start

    def record(self) -> dict[str, Any]:
        """The training record (see `record_of`)."""
        return record.record_of(self.where, self.model, self.requested, self.config, self.samples)

    def describe(self, training_record: dict[str, Any], weights: Mapping[str, Tensor]) -> Checkpoint:
        """The content of a model file: these weights, the training record, classes and configuration."""
        args = self.config.model_dump(mode="json")
        made = make_checkpoint(self.architecture, weights, class_names=self.classes, args=args)
        return replace(made, training_record=training_record)

    def annotations(self, split: str) -> Any:
        """The canonical annotations of a split, as COCO."""
        return files.read_json(self.where.split(split)[0])

    def scoring_options(self) -> dict[str, Any]:
        """The keyword arguments of CocoScoring."""
        side = self.architecture.resolution // self.architecture.mask_downsample_ratio
        return {
            "interval": self.config.eval_interval,
            "max_dets": self.config.eval_max_dets,
            "per_class": self.config.log_per_class_metrics,
            "mask_side": side if self.config.eval_masks_head_resolution else None,
        }

    def callbacks(self) -> list[Callback]:
        """The callbacks for compiled code and for scores of training batches, if the parameters ask for them."""
        config = self.config
        callbacks: list[Callback] = [compilation.PlainValidation()] if config.compile != "off" else []
        if config.compute_train_metrics:
            callbacks.append(TrainScoring(self.classes, config.eval_interval, config.eval_max_dets))
        return callbacks


def read_inputs(
    where: ProjectPaths, model: ModelConfig, config: TrainConfig, runtime: RuntimeConfig, output: Path
) -> Inputs:
    """Read and check the inputs of a training. Also sets the number of torch's threads.

    Args:
        where: the folders of the project.
        model, config, runtime: the sections `model`, `train` and `runtime` of params.yaml.
        output: the run folder, for the batch size of an interrupted run.

    Raises:
        UserError: an input is missing or wrong.
    """
    use_portable(config)
    _pin_threads(runtime, config)
    classes = [entry.name for entry in read_classes(where.classes)]
    architecture = model.architecture(len(classes))
    check_together(model, config)
    if config.compile != "off":
        compilation.code_generator(device_kind(config))
    if config.class_names not in (None, classes):
        raise UserError(
            f"train.class_names is {config.class_names}, but the classes of the dataset are {classes}. Change one."
        )
    requested, sizes = config, training_sizes(config, architecture)
    side = max(sizes, default=architecture.resolution)
    config = with_batch_size(config, model, architecture, side, output / record.STATE_FILE)
    data = data_arguments(where, config, runtime, architecture, side)
    return Inputs(where, model, requested, config, runtime, architecture, classes, sizes, data)


def training_sizes(config: TrainConfig, architecture: Architecture) -> list[int]:
    """The input sizes of multi-scale training, in pixels; empty if it is off."""
    side, patch, windows = architecture.resolution, architecture.patch_size, architecture.windows
    return multi_scale_sizes(side, patch, windows, config.expanded_scales) if config.multi_scale != "off" else []


def training_data(
    where: ProjectPaths, config: TrainConfig, runtime: RuntimeConfig, architecture: Architecture, side: int
) -> TrainingData:
    """The data of a training.

    Args:
        where, config, runtime: see `read_inputs`.
        architecture: of the model.
        side: training images are resized to side x side pixels.

    Raises:
        UserError: an input is missing or wrong, or a split is empty.
    """
    return TrainingData(**data_arguments(where, config, runtime, architecture, side))


def data_arguments(
    where: ProjectPaths, config: TrainConfig, runtime: RuntimeConfig, architecture: Architecture, side: int
) -> dict[str, Any]:
    """The arguments of TrainingData.

    Args:
        where, config, runtime: see `read_inputs`.
        architecture: of the model.
        side: training images are resized to side x side pixels.

    Raises:
        UserError: see `training_data`.
    """
    train, valid = (read_samples(*where.split(name)) for name in ("train", "valid"))
    if not valid:
        raise UserError(
            "the valid split has no image, but its scores choose the best epoch. Add images and annotations to it, or "
            "set validate.split to take some from train."
        )
    return {
        "root": where.dataset,
        "train_samples": train,
        "valid_samples": valid,
        "resolution": architecture.resolution,
        "train_resolution": side,
        "batch_size": int(config.batch_size),
        "eval_batch_size": config.eval_batch_size,
        "grad_accum_steps": config.grad_accum_steps,
        "seed": config.seed,
        "masks": architecture.segmentation,
        "augmentation": config.augmentation.model_copy(update={} if config.scale_jitter else {"crop_sides": ()}),
        "pin_memory": device_kind(config) == "cuda" if runtime.pin_memory is None else runtime.pin_memory,
        **runtime.model_dump(include={"num_workers", "persistent_workers", "prefetch_factor"}),
    }


def _print_images_with_too_many_objects(samples: Sequence[Sample], queries: int) -> None:
    """Print the images that have more objects than the model can find."""
    paths = [sample.path for sample in samples if np.count_nonzero(~sample.crowd) > queries]
    if paths and record.first_process():
        limit = f"the {queries} that the model can find (model.num_queries)"
        say(f"note: {len(paths)} images have more objects than {limit}: {listed(paths)}")


def _pin_threads(runtime: RuntimeConfig, config: TrainConfig) -> None:
    """Set the number of threads, which can change the last bits of a result on a CPU.

    With several processes Lightning would otherwise change it.

    Raises:
        UserError: train.portable without runtime.threads: the number must not depend on the machine.
    """
    if config.portable and runtime.threads is None:
        raise UserError("train.portable needs runtime.threads: the number of threads changes the result. Set a number.")
    processes = devices_per_node(config)
    threads = torch.get_num_threads()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, threads // processes)
    torch.set_num_threads(runtime.threads or threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # read by the processes that Lightning starts
