"""One training, from the files of the stages before it to the files of a run folder."""

from __future__ import annotations

import importlib
import logging
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
from rfdetr_core.checkpoint.files import Checkpoint, make_checkpoint, read_checkpoint, read_plain
from rfdetr_core.checkpoint.loading import load_weights
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.data.batching import multi_scale_sizes
from rfdetr_core.data.datamodule import RFDETRDataModule
from rfdetr_core.data.samples import Sample, read_samples
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.metrics.coco import REPORTED
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.training import compilation, record
from rfdetr_core.training.callbacks import CocoScoring, EarlyStopping, TrainScoring
from rfdetr_core.training.config import RuntimeConfig, TrainConfig, check_together
from rfdetr_core.training.interruption import Stopped, StopSignals, explained
from rfdetr_core.training.module import RFDETRModelModule
from rfdetr_core.training.nonfinite import NonFiniteError
from rfdetr_core.training.outputs import RunFiles
from rfdetr_core.training.trainer import build_trainer, check_launched, device_kind, devices_per_node, with_batch_size


@dataclass(frozen=True)
class Training:
    """What `Trainer.fit` takes, and the callbacks that score the epochs and write the run folder.

    start: lines that say which weights the first epoch starts from.
    """

    module: RFDETRModelModule
    data: RFDETRDataModule
    callbacks: list[Callback]
    files: RunFiles
    record: dict[str, Any]
    start: tuple[str, ...]


def train_model(
    where: ProjectPaths,
    model: ModelConfig,
    config: TrainConfig,
    runtime: RuntimeConfig,
    output: Path,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Train, and leave the files of a run in `output`; go on where an interrupted training of the same inputs ended.

    callbacks: of Lightning, for a script that watches its training.

    Raises:
        UserError: an input is missing or wrong, a loss is not finite, memory is short, another process of
            the training ended, none was started on other nodes, or a signal asked to stop.
    """
    check_launched(config)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    signals = StopSignals()
    try:
        with signals.handled(), record.sole_writer(output):
            _fit(prepare_training(where, model, config, runtime, output), where.weights, runtime, signals, callbacks)
    except Stopped:
        raise signals.told from None
    except NonFiniteError as error:
        raise UserError(error.saved(output)) from None
    except UserError as error:
        # torch puts the traceback of a loader worker before its message.
        _, of_worker, message = str(error).rpartition("rfdetr_core.base.errors.UserError: ")
        if not of_worker:
            raise
        raise UserError(message.strip()) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the device. Lower train.batch_size (now {config.batch_size}) and raise "
            "train.grad_accum_steps as much, lower model.resolution, or set model.gradient_checkpointing."
        ) from error
    except Exception as error:
        if (explanation := explained(error, signals) or compilation.failure(error)) is None:
            raise
        raise explanation from error


def _fit(
    training: Training, weights: Path, runtime: RuntimeConfig, signals: StopSignals, others: Sequence[Callback]
) -> None:
    """Train from the state that the folder or, in the folder `weights`, `train.resume` has; if there is none, anew."""
    config, folder, fingerprint = training.module.config, training.files.folder, training.files.fingerprint
    state, told = record.state_to_resume(folder, fingerprint)
    if state is None and (named := resolve_weights(config.resume, weights)) is not None:
        state, told = record.named_state(named, config, fingerprint)
    lines = [*([told] if told else []), *(training.start if state is None else [])]
    if lines and record.first_process():
        say(*lines)
    if state is not None and (state.finished or state.epochs == config.epochs):
        if record.first_process():
            training.files.rewrite(read_plain(state.path), state.path)
        return
    # Loaded by name: what watches a training is no dependency of its result.
    observers = importlib.import_module("rfdetr_core.observers").observers(runtime, training.record, folder)
    callbacks = [*training.callbacks, signals, *observers, *others]
    trainer = build_trainer(config, callbacks=callbacks, num_sanity_val_steps=runtime.num_sanity_val_steps)
    signals.trainer = trainer
    if record.first_process():
        machine, asked = training.record["machine"], training.record["params"]["train"]["batch_size"]
        size, batches, effective = machine["batch_size"], machine["grad_accum_steps"], machine["effective_batch_size"]
        step = f"{size} images{' (auto)' if asked == 'auto' else ''} x {batches} batches a step"
        say(f"effective batch size {effective}: {step} x {effective // (size * batches)} devices")
    try:
        with compilation.compiler_settings(config):
            trainer.fit(training.module, training.data, ckpt_path=state.path if state else None, weights_only=True)
    except (UserError, Stopped, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Lightning's own part of the state has no schema.
        if state is None or signals.training or explained(error, signals):
            raise
        raise UserError(f"{state.path}: its state cannot be restored ({type(error).__name__}: {error}).") from error


def prepare_training(
    where: ProjectPaths, model: ModelConfig, config: TrainConfig, runtime: RuntimeConfig, output: Path
) -> Training:
    """Build everything but the Trainer. Seeds torch's global generator and sets its number of threads.

    Raises:
        UserError: an input is missing or wrong.
    """
    _pin_threads(runtime, config)
    classes = [entry.name for entry in read_classes(where.classes)]
    architecture = model.architecture(len(classes))
    check_together(model, config)
    if config.compile != "off":
        compilation.code_generator(device_kind(config))
    if config.class_names not in (None, classes):
        raise UserError(f"train.class_names are {config.class_names}, but the dataset's are {classes}. Change one.")
    asked, sizes = config, training_sizes(config, architecture)
    side = max(sizes, default=architecture.resolution)
    config = with_batch_size(config, model, architecture, side, output / record.STATE_FILE)
    data = training_data(where, config, runtime, architecture, side)
    torch.manual_seed(mixed_seed("weights", config.seed))
    economy = {"gradient_checkpointing": model.gradient_checkpointing, "freeze_encoder": model.freeze_encoder}
    detector = build_detector(architecture, drop_path=config.drop_path, **economy)
    start: tuple[str, ...] = ("training from scratch: no pretrain_weights",)
    if (parent := resolve_weights(model.pretrain_weights, where.weights)) is not None:
        report = load_weights(detector, architecture, read_checkpoint(parent), classes)
        start = (f"training from the weights of {parent}", *(f"  {line}" for line in report.describe().split("\n")))
    samples = {"train": data.train_set.samples, "valid": data.valid_set.samples}
    _note_crowded([*samples["train"], *samples["valid"]], architecture.queries)
    training_record = record.record_of(where, model, asked, config, samples)
    args = config.model_dump(mode="json")

    def describe(weights: Mapping[str, Tensor]) -> Checkpoint:
        made = make_checkpoint(architecture, weights, class_names=classes, args=args)
        return replace(made, training_record=training_record)

    names, metric = {field: name for name, field in REPORTED.items()}, config.best_model_metric
    key = ("segm_" if architecture.segmentation else "") + names["mar_100" if metric == "mar" else metric]
    options: dict[str, Any] = {"skip": config.skip_best_epochs, "smooth": config.smooth_alpha}
    options |= {"fingerprint": record.fingerprint(training_record), "interval": runtime.checkpoint_interval}
    written = RunFiles(output, key, describe, **options)
    mask_side = architecture.resolution // architecture.mask_downsample_ratio
    scoring = CocoScoring(
        files.read_json(where.split("valid")[0]),
        architecture.segmentation,
        config.eval_interval,
        max_dets=config.eval_max_dets,
        per_class=config.log_per_class_metrics,
        mask_side=mask_side if config.eval_masks_head_resolution else None,
    )
    callbacks: list[Callback] = [scoring, written]
    if config.compile != "off":
        compilation.compile_regions(detector)
        callbacks.append(compilation.PlainValidation())
    if config.compute_train_metrics:
        callbacks.append(TrainScoring(classes, config.eval_interval, config.eval_max_dets))
    if config.early_stopping:
        patience, delta = config.early_stopping_patience, config.early_stopping_min_delta
        callbacks.append(EarlyStopping(key, patience, delta, config.early_stopping_use_ema))
    module = RFDETRModelModule(detector, architecture, config, sizes)
    return Training(module, data, callbacks, written, training_record, start)


def _note_crowded(samples: Sequence[Sample], queries: int) -> None:
    """Print which images have more objects than the model can find."""
    crowded = [sample.path for sample in samples if np.count_nonzero(~sample.crowd) > queries]
    if crowded and record.first_process():
        what = f"more objects than the {queries} that the model finds at most (model.num_queries)"
        say(f"note: {len(crowded)} images have {what}: {listed(crowded)}")


def _pin_threads(runtime: RuntimeConfig, config: TrainConfig) -> None:
    """Fix the number of threads, which decides bits on a CPU; Lightning would change it in a process of several."""
    processes = devices_per_node(config)
    threads = torch.get_num_threads()
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, threads // processes)
    torch.set_num_threads(runtime.threads or threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # for the processes that Lightning starts


def training_sizes(config: TrainConfig, architecture: Architecture) -> list[int]:
    """The sizes of multi-scale training."""
    side, patch, windows = architecture.resolution, architecture.patch_size, architecture.windows
    return multi_scale_sizes(side, patch, windows, config.expanded_scales) if config.multi_scale != "off" else []


def training_data(
    where: ProjectPaths, config: TrainConfig, runtime: RuntimeConfig, architecture: Architecture, side: int
) -> RFDETRDataModule:
    """The data, training images at side x side pixels. UserError: an input is missing or wrong, or a split is empty."""
    train, valid = (read_samples(*where.split(name)) for name in ("train", "valid"))
    if not valid:
        raise UserError(
            "the valid split has no image, yet its scores pick the best epoch. Add images and annotations to it, or "
            "have validate split some off train."
        )
    augmentation = config.augmentation.model_copy(update={} if config.scale_jitter else {"crop_sides": ()})
    return RFDETRDataModule(
        where.dataset,
        train,
        valid,
        resolution=architecture.resolution,
        train_resolution=side,
        batch_size=int(config.batch_size),
        eval_batch_size=config.eval_batch_size,
        grad_accum_steps=config.grad_accum_steps,
        seed=config.seed,
        masks=architecture.segmentation,
        augmentation=augmentation,
        pin_memory=device_kind(config) == "cuda" if runtime.pin_memory is None else runtime.pin_memory,
        **runtime.model_dump(include={"num_workers", "persistent_workers", "prefetch_factor"}),
    )
