"""The Lightning Trainer of this project."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint

from rfdetr_core.checkpoint.files import read_plain, write_plain
from rfdetr_core.errors import UserError
from rfdetr_core.training.callbacks import WeightAveraging
from rfdetr_core.training.config import TrainConfig


class PlainCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints as plain values, whole or not at all, read without running anything of them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write what Lightning collected."""
        write_plain(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it, tensors on the CPU."""
        return read_plain(Path(path))


def device_kind(config: TrainConfig) -> str:
    """The kind of device that training will use: cpu, cuda or mps.

    Raises:
        UserError: CUDA or MPS is asked for and not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = ("cuda" if there["cuda"] else "cpu") if config.accelerator == "auto" else config.accelerator
    if not there[kind]:
        raise UserError(f"train.accelerator is {kind}, but torch finds no such device here. Use auto or cpu.")
    return kind


def resolved_precision(config: TrainConfig) -> str:
    """What `precision: auto` means on this machine.

    Raises:
        UserError: 16-mixed on a CPU, which cannot scale its gradients.
    """
    kind = device_kind(config)
    if config.precision == "16-mixed" and kind == "cpu":
        raise UserError("train.precision 16-mixed needs a GPU. Use 32-true or bf16-mixed on a CPU.")
    if config.precision != "auto":
        return config.precision
    if kind != "cuda":
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def build_trainer(config: TrainConfig, *, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """A Trainer for an RFDETRModelModule: averaging comes with it, other callbacks and any Trainer option can be added.

    Raises:
        UserError: a device or precision that this machine does not have.
    """
    # Lightning's advice (workers, logging intervals) is about choices that are made here on purpose.
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - a property of a module
    everything = [WeightAveraging(config.ema_decay, config.ema_tau), *callbacks]
    defaults: dict[str, Any] = {
        "max_epochs": config.epochs,
        "accelerator": device_kind(config),
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
        "precision": resolved_precision(config),
        "deterministic": config.deterministic,
        "accumulate_grad_batches": config.grad_accum_steps,
        "gradient_clip_val": config.clip_max_norm or None,
        "check_val_every_n_epoch": config.eval_interval,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "enable_checkpointing": any(isinstance(one, Checkpoint) for one in everything),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "plugins": [PlainCheckpoints()],
    }
    return Trainer(**defaults | options, callbacks=everything)
