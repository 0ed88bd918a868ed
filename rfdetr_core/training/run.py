"""One training, from the files of the stages before it to the files of a run folder."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from rfdetr_core import files
from rfdetr_core.checkpoint.files import Checkpoint, make_checkpoint, read_checkpoint, read_plain
from rfdetr_core.checkpoint.loading import load_weights
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.data.batching import multi_scale_sizes
from rfdetr_core.data.datamodule import RFDETRDataModule
from rfdetr_core.data.samples import read_samples
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.errors import UserError
from rfdetr_core.manifest import read_classes
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.training.callbacks import CocoScoring, EarlyStopping
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.module import RFDETRModelModule
from rfdetr_core.training.outputs import RunFiles
from rfdetr_core.training.resume import (
    code_digest,
    differences,
    flattened,
    package_versions,
    sole_writer,
    state_to_resume,
)
from rfdetr_core.training.trainer import build_trainer, device_kind, resolved_precision

# Named, not imported: what watches a training is no dependency of its result.
_OBSERVERS = "rfdetr_core.observers"
METRIC_KEYS = {"map": "mAP_50_95", "map_50": "mAP_50", "mar": "mAR", "f1": "F1"}
# What may differ when a training is gone on with on purpose.
_LENGTH = tuple(f"params.train.{name}" for name in ("epochs ", "resume ", "early_stopping", "eval_interval "))


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training reads: the dataset folder, the folders of the stages before, and the one of weights."""

    dataset: Path
    annotations: Path = Path("annotations")
    manifests: Path = Path("manifest")
    weights: Path = Path("weights")

    @property
    def inputs(self) -> dict[str, Path]:
        """The files that decide the result, but for the images, whose digests the manifests hold."""
        named = [self.annotations / name for name in ("train.json", "valid.json", "classes.json")]
        named += [self.manifests / name for name in ("train.json", "valid.json")]
        return {f"{path.parent.name}/{path.name}": path for path in named}


@dataclass(frozen=True)
class Training:
    """What `Trainer.fit` takes, and the callbacks that score the epochs and write the run folder."""

    module: RFDETRModelModule
    data: RFDETRDataModule
    callbacks: list[Callback]
    record: dict[str, Any]


def train_model(
    where: TrainingFiles, model: ModelConfig, config: TrainConfig, runtime: RuntimeConfig, output: Path
) -> None:
    """Train, and leave the files of a run in `output`; go on where an interrupted training of the same inputs ended.

    Raises:
        UserError: an input is missing or wrong, a loss is not finite, memory is short, or SIGTERM asked to stop.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with sole_writer(output):
        training = prepare_training(where, model, config, runtime, output)
        named = _named_state(where, config, training.record)
        state, told = state_to_resume(output, flattened(training.record))
        if state is None and named is not None:
            state, told = named, f"going on from {named}."
        if told:
            print(told, flush=True)
        observers = importlib.import_module(_OBSERVERS).observers(runtime, training.record, output)
        trainer = build_trainer(config, callbacks=[*training.callbacks, *observers])
        try:
            trainer.fit(training.module, training.data, ckpt_path=state, weights_only=True)
        except SIGTERMException:
            raise UserError("stopped by SIGTERM. Run again to go on after the last finished epoch.") from None
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"out of memory on the device. Lower train.batch_size (now {config.batch_size}) and raise "
                "train.grad_accum_steps as much, lower model.resolution, or set model.gradient_checkpointing."
            ) from error


def prepare_training(
    where: TrainingFiles, model: ModelConfig, config: TrainConfig, runtime: RuntimeConfig, output: Path
) -> Training:
    """Build everything but the Trainer. Seeds torch's global generator and sets its number of threads.

    Raises:
        UserError: an input is missing or wrong.
    """
    torch.set_num_threads(runtime.threads or torch.get_num_threads())
    classes = [entry.name for entry in read_classes(where.annotations / "classes.json")]
    architecture = model.architecture(len(classes))
    data, sizes = _data(where, config, runtime, architecture)
    torch.manual_seed(mixed_seed("weights", config.seed))
    detector = build_detector(
        architecture,
        drop_path=config.drop_path,
        gradient_checkpointing=model.gradient_checkpointing,
        freeze_encoder=model.freeze_encoder,
    )
    parent = resolve_weights(model.pretrain_weights, where.weights)
    if parent is not None:
        report = load_weights(detector, architecture, read_checkpoint(parent))
        print(f"weights of {parent}:\n{report.describe()}", flush=True)
    record = _record(where, model, config)
    args = config.model_dump(mode="json")

    def describe(weights: Mapping[str, Tensor]) -> Checkpoint:
        made = make_checkpoint(architecture, weights, class_names=classes, args=args)
        return replace(made, training_record=record)

    metric, interval = config.best_model_metric, runtime.checkpoint_interval
    kind = "segm_" if architecture.segmentation else ""
    key = kind + METRIC_KEYS[metric]
    callbacks: list[Callback] = [
        CocoScoring(files.read_json(where.annotations / "valid.json"), architecture.segmentation, config.eval_interval),
        RunFiles(output, metric, key, describe, fingerprint=flattened(record), interval=interval),
    ]
    if config.early_stopping:
        patience, delta = config.early_stopping_patience, config.early_stopping_min_delta
        callbacks.append(EarlyStopping(key, patience, delta, config.early_stopping_use_ema))
    return Training(RFDETRModelModule(detector, architecture, config, sizes), data, callbacks, record)


def _data(
    where: TrainingFiles, config: TrainConfig, runtime: RuntimeConfig, architecture: Architecture
) -> tuple[RFDETRDataModule, list[int]]:
    """The data, and the sizes of multi-scale training, of which the data has the largest."""
    train, valid = (
        read_samples(where.annotations / f"{split}.json", where.manifests / f"{split}.json")
        for split in ("train", "valid")
    )
    if not valid:
        warnings.warn("no valid image: nothing is scored, and the last epoch counts as the best", stacklevel=3)
    side, patch, windows = architecture.resolution, architecture.patch_size, architecture.windows
    sizes = multi_scale_sizes(side, patch, windows, config.expanded_scales) if config.multi_scale else []
    data = RFDETRDataModule(
        where.dataset,
        train,
        valid,
        resolution=side,
        train_resolution=max(sizes, default=None),
        batch_size=config.batch_size,
        grad_accum_steps=config.grad_accum_steps,
        seed=config.seed,
        masks=architecture.segmentation,
        augmentation=config.augmentation,
        num_workers=runtime.num_workers,
        pin_memory=device_kind(config) == "cuda",
    )
    return data, sizes


def _record(where: TrainingFiles, model: ModelConfig, config: TrainConfig) -> dict[str, Any]:
    """Everything that decides the result, as it is: what the checkpoints say of their origin, and the fingerprint."""
    named = {"pretrain_weights": model.pretrain_weights, "resume": config.resume}
    weights = {key: resolve_weights(name, where.weights) for key, name in named.items()}
    kind = device_kind(config)
    return {
        "params": {"model": model.model_dump(mode="json"), "train": config.model_dump(mode="json")},
        "inputs": {name: files.sha256_file(path) for name, path in where.inputs.items()},
        "weights": {key: path and files.sha256_file(path) for key, path in weights.items()},
        "code": code_digest(),
        "packages": package_versions(),
        "machine": {
            "device": torch.cuda.get_device_name() if kind == "cuda" else kind,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "precision": resolved_precision(config),
        },
    }


def _named_state(where: TrainingFiles, config: TrainConfig, record: dict[str, Any]) -> Path | None:
    """The state that `train.resume` names.

    Raises:
        UserError: it is no checkpoint.pth of a training, or of one with other parameters than the length.
    """
    path = resolve_weights(config.resume, where.weights)
    if path is None:
        return None
    state = read_plain(path)
    if "run" not in state:
        raise UserError(
            f"{path} has no state of a training; train.resume needs a checkpoint.pth. To start from its weights, name "
            "it as model.pretrain_weights."
        )
    params = {key: value for key, value in state["run"]["fingerprint"].items() if key.startswith("params.")}
    changes = differences(params, flattened({"params": record["params"]}))
    changed = [one for one in changes if not one.startswith(_LENGTH)]
    if changed:
        raise UserError(
            f"train.resume goes on with the same parameters, but {'; '.join(changed)}. For a new training from its "
            f"weights, name {path.name} as model.pretrain_weights."
        )
    return path
