"""The Lightning Trainer of this project."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import Precision

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_plain, write_plain
from rfdetr_core.training.callbacks import WeightAveraging
from rfdetr_core.training.config import TrainConfig

# Of glibc's malloc.h, for mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have this process keep the memory that it frees; False where the C library is not glibc, which changes nothing.

    What glibc gives back to the system after a step is faulted in again, page by page, in the next one: 4 to 15 % of
    its time. As GLIBC_TUNABLES with thresholds beyond any tensor's size, but without starting the process anew.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # No block gets a mapping of its own, and the heap is never trimmed.
    return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1))


class PlainCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints as plain values, whole or not at all, read without running anything of them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write what Lightning collected."""
        write_plain(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it, tensors on the CPU."""
        return read_plain(Path(path))


def device_kind(config: TrainConfig) -> str:
    """The kind of device that training will use: cpu, cuda or mps. UserError: it is asked for and not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind = ("cuda" if there["cuda"] else "cpu") if config.accelerator == "auto" else config.accelerator
    if not there[kind]:
        raise UserError(f"train.accelerator is {kind}, but torch finds no such device here. Use auto or cpu.")
    return kind


def devices_per_node(config: TrainConfig) -> int:
    """How many devices, and so processes, a node trains with."""
    if config.devices != "auto":
        return config.devices
    return torch.cuda.device_count() if device_kind(config) == "cuda" else 1


def check_launched(config: TrainConfig) -> None:
    """Check that a training of several nodes was started on all of them: Lightning would wait for them for ever.

    Raises:
        UserError: it seems to have been started on this one alone.
    """
    # By hand: an address that the nodes share; Lightning itself sets it for the processes that it starts.
    if config.num_nodes == 1 or {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return
    clusters = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
    if not any(cluster.detect() for cluster in clusters):
        raise UserError(
            f"train.num_nodes is {config.num_nodes}, and several nodes need a launcher. Run on each of them, where "
            f"HOST is one of them and PORT is free there: torchrun --nnodes={config.num_nodes} "
            f"--nproc-per-node={devices_per_node(config)} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT "
            "-m stages.train. Or start python -m stages.train by srun. For this machine alone: train.num_nodes: 1"
        )


def resolved_precision(config: TrainConfig) -> str:
    """What `amp_dtype` means here, for Lightning. UserError: fp16 on a CPU, which cannot scale its gradients."""
    kind = device_kind(config)
    if config.amp_dtype == "fp16" and kind == "cpu":
        raise UserError("train.amp_dtype fp16 needs a GPU. Use null or bf16 on a CPU.")
    if config.amp_dtype != "auto":
        return {None: "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[config.amp_dtype]
    if kind == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    # These instructions of a CPU multiply bfloat16, which halves a training step.
    multiplies_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if kind == "cpu" and multiplies_bf16 else "32-true"


def build_trainer(config: TrainConfig, *, callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
    """A Trainer for an RFDETRModelModule: averaging comes with it, other callbacks and any Trainer option can be added.

    Raises:
        UserError: a device or precision that this machine does not have.
    """
    # Lightning's advice (workers, logging intervals) is about choices that are made here on purpose.
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - a property of a module
    kind = device_kind(config)
    if kind == "cpu":
        keep_freed_memory()
    average = [WeightAveraging(config.ema_decay, config.ema_tau, config.ema_update_interval)] if config.use_ema else []
    everything = [*average, *callbacks]
    # SLURM's own requeue would save the middle of an epoch and go on from it whatever has changed since.
    plugins: list[Any] = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    given = options.pop("plugins", None) or []
    plugins += given if isinstance(given, list | tuple) else [given]
    if not any(isinstance(one, CheckpointIO) for one in plugins):
        plugins.append(PlainCheckpoints())
    defaults: dict[str, Any] = {
        "max_epochs": config.epochs,
        "accelerator": kind,
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
        "plugins": plugins,
    }
    if any(isinstance(one, Precision) for one in plugins):
        del defaults["precision"]  # Lightning takes one of the two
    try:
        return Trainer(**defaults | options, callbacks=everything)
    except (MisconfigurationException, ImportError, ValueError) as error:
        told = ", ".join(f"{name} {defaults[name]}" for name in ("strategy", "accelerator", "devices", "num_nodes"))
        raise UserError(f"Lightning cannot train with {told}: {error}") from error
