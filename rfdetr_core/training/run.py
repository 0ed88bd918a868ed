"""One training: from the files of earlier stages to the files of a run folder. Start reading the package here."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.paths import ProjectPaths
from rfdetr_core.base.printing import say
from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.checkpoint.published import resolve_weights
from rfdetr_core.data.datamodule import TrainingData
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.training import compilation, record
from rfdetr_core.training.callbacks import CocoScoring, EarlyStopping
from rfdetr_core.training.config import RuntimeConfig, TrainConfig
from rfdetr_core.training.inputs import read_inputs
from rfdetr_core.training.interruption import Stopped, StopSignals, explained
from rfdetr_core.training.module import TrainingModule
from rfdetr_core.training.nonfinite import NonFiniteError
from rfdetr_core.training.outputs import RunFiles
from rfdetr_core.training.trainer import build_trainer, check_launched


@dataclass(frozen=True)
class Training:
    """The arguments of `Trainer.fit`, with the callbacks that score the epochs and write the run folder.

    files: the callback that writes the run folder. record: the training record. start: messages for the user about the
    initial weights; each is a line.
    """

    module: TrainingModule
    data: TrainingData
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
    """Train, and write the files of a run. An interrupted training of the same inputs is resumed.

    Args:
        where: the folders of the project.
        model, config, runtime: the sections `model`, `train` and `runtime` of params.yaml.
        output: the run folder.
        callbacks: more callbacks of Lightning, for a script that watches its training.

    Raises:
        UserError: an input is missing or wrong; a loss is not finite; memory is short; another process of the training
            ended, or was not started on other nodes; or a signal asked to stop.
    """
    check_launched(config)
    quiet_lightning()
    signals = StopSignals()
    with errors_explained(config, output, signals), signals.handled(), record.sole_writer(output):
        _fit(prepare_training(where, model, config, runtime, output), where.weights, runtime, signals, callbacks)


@contextmanager
def errors_explained(config: TrainConfig, output: Path, signals: StopSignals) -> Iterator[None]:
    """Turn the errors of a training into messages that say what to do.

    Args:
        config: the section `train`.
        output: the run folder. The batch of a loss that is not finite is saved there.
        signals: the callback that notes signals.
    """
    try:
        yield
    except Stopped:
        raise signals.stop_error from None
    except NonFiniteError as error:
        raise UserError(error.saved(output)) from None
    except UserError as error:
        # torch puts the traceback of a loader worker before its message.
        _, traceback_of_worker, message = str(error).rpartition("rfdetr_core.base.errors.UserError: ")
        if not traceback_of_worker:
            raise
        raise UserError(message.strip()) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory on the device. Lower train.batch_size (now {config.batch_size}) and raise "
            "train.grad_accum_steps by the same factor, lower model.resolution, or set model.gradient_checkpointing."
        ) from error
    except Exception as error:
        if (explanation := explained(error, signals) or compilation.failure(error)) is None:
            raise
        raise explanation from error


def quiet_lightning() -> None:
    """Let Lightning print only warnings."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _fit(
    training: Training, weights: Path, runtime: RuntimeConfig, signals: StopSignals, extra_callbacks: Sequence[Callback]
) -> None:
    """Train from the state in the run folder, else from that of `train.resume`, else from scratch."""
    config, folder, fingerprint = training.module.config, training.files.folder, training.files.fingerprint
    state, message = record.state_to_resume(folder, fingerprint)
    if state is None and (path := resolve_weights(config.resume, weights)) is not None:
        state, message = record.named_state(path, config, fingerprint)
    lines = [*([message] if message else []), *(training.start if state is None else [])]
    if lines and record.first_process():
        say(*lines)
    if state is not None and (state.finished or state.epochs == config.epochs):
        if record.first_process():
            training.files.rewrite(read_plain(state.path), state.path)
        return
    # Loaded by name: the observers of a training do not change its result, so its code digest does not include them.
    observers = importlib.import_module("rfdetr_core.observers").observers(runtime, training.record, folder)
    callbacks = [*training.callbacks, signals, *observers, *extra_callbacks]
    trainer = build_trainer(config, callbacks=callbacks, num_sanity_val_steps=runtime.num_sanity_val_steps)
    signals.trainer = trainer
    say_batch_size(training.record)
    try:
        with compilation.compiler_settings(config):
            trainer.fit(training.module, training.data, ckpt_path=state.path if state else None, weights_only=True)
    except (UserError, Stopped, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # Lightning's own part of the state has no schema, so an error in it is found only here.
        if state is None or signals.training or explained(error, signals):
            raise
        raise UserError(f"{state.path}: its state cannot be restored ({type(error).__name__}: {error}).") from error


def say_batch_size(training_record: Mapping[str, Any]) -> None:
    """Print how many images an optimiser step has."""
    if record.first_process():
        machine, batch_size = training_record["machine"], training_record["params"]["train"]["batch_size"]
        size, batches, effective = machine["batch_size"], machine["grad_accum_steps"], machine["effective_batch_size"]
        step = f"{size} images{' (auto)' if batch_size == 'auto' else ''} x {batches} batches a step"
        say(f"effective batch size {effective}: {step} x {effective // (size * batches)} devices")


def prepare_training(
    where: ProjectPaths, model: ModelConfig, config: TrainConfig, runtime: RuntimeConfig, output: Path
) -> Training:
    """Build everything except the Trainer. Seeds torch's global generator and sets its number of threads.

    Args:
        where: the folders of the project.
        model, config, runtime: the sections `model`, `train` and `runtime` of params.yaml.
        output: the run folder.

    Raises:
        UserError: an input is missing or wrong.
    """
    inputs = read_inputs(where, model, config, runtime, output)
    config, architecture, key = inputs.config, inputs.architecture, inputs.metric
    data, training_record = TrainingData(**inputs.data), inputs.record()
    detector, start = inputs.detector()
    options: dict[str, Any] = {"skip": config.skip_best_epochs, "smooth": config.smooth_alpha}
    options |= {"fingerprint": record.fingerprint(training_record), "interval": runtime.checkpoint_interval}
    run_files = RunFiles(output, key, partial(inputs.describe, training_record), **options)
    scoring = CocoScoring(inputs.annotations("valid"), architecture.segmentation, **inputs.scoring_options())
    callbacks: list[Callback] = [scoring, run_files, *inputs.callbacks()]
    if config.early_stopping:
        patience, delta = config.early_stopping_patience, config.early_stopping_min_delta
        callbacks.append(EarlyStopping(key, patience, delta, config.early_stopping_use_ema))
    module = TrainingModule(detector, architecture, config, inputs.sizes)
    return Training(module, data, callbacks, run_files, training_record, start)
