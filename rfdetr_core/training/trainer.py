"""Builds the Lightning Trainer: devices, launchers of several processes, precision, and `batch_size: auto`."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.kubeflow import KubeflowEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import Precision

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import content_digest, read_plain, write_plain
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target
from rfdetr_core.training.callbacks import WeightAveraging
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimization import build_optimizer
from rfdetr_core.training.portable import use_portable

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
CPU_BATCH_SIZE = 4  # images per batch on devices whose memory is not probed: the default of batch_size
_MOST_IMAGES = 128  # the largest batch of `batch_size: auto`
_KUBEFLOW = {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"}  # other launchers set LOCAL_RANK as well
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_USED_PART = 0.9  # the part of the largest fitting batch that is used: real batches differ from the probed one


def keep_freed_memory() -> bool:
    """Make this process keep the memory that it frees. Returns False, without effect, if the C library is not glibc.

    Otherwise glibc gives freed memory back to the system after a step, and the next step has to fault it in again, page
    by page: 4 to 15 % of the step's time. GLIBC_TUNABLES would do the same, but only for a process that starts.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # No block gets its own mapping, and the heap is never trimmed.
    return bool(library.mallopt(_MMAP_MAX, 0) and library.mallopt(_TRIM_THRESHOLD, -1))


class PlainCheckpoints(TorchCheckpointIO):
    """Reads and writes Lightning's checkpoints as plain values. Files are replaced at once. Reading runs no code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint. A state for a resume gets a digest of its content."""
        if "run" in checkpoint:
            checkpoint["run"]["digest"] = content_digest(checkpoint)
        write_plain(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint, with its tensors on the CPU."""
        return read_plain(Path(path))


def device_kind(config: TrainConfig) -> str:
    """The kind of device that training will use: cpu, cuda or mps. UserError: torch does not find the chosen kind."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    automatic = "cuda" if available["cuda"] and not config.portable else "cpu"
    kind = automatic if config.accelerator == "auto" else config.accelerator
    if not available[kind]:
        raise UserError(f"train.accelerator is {kind}, but torch finds no such device here. Use auto or cpu.")
    return kind


def cpu_kind(*, portable: bool = False) -> str:
    """The vector instructions with which torch computes on this CPU: they can change the last bits of a result.

    AMX changes the last bits of bfloat16.

    portable: for a training with `train.portable`, which does not use AMX.
    """
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() and not portable else ""
    return torch.backends.cpu.get_cpu_capability() + amx


def devices_per_node(config: TrainConfig) -> int:
    """How many devices train on each node. Each device has one process."""
    if config.devices != "auto":
        return config.devices
    return torch.cuda.device_count() if device_kind(config) == "cuda" else 1


def launcher() -> ClusterEnvironment:
    """The launcher that started the processes of this training. LightningEnvironment: Lightning starts them itself.

    A SLURM job with a single task is one process, even if several nodes are allocated. Such jobs are a batch script
    that does not call srun, an interactive shell, or `srun --ntasks=1`.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1") if "SLURM_STEP_ID" in os.environ else "1"  # set only by srun
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if tasks != "1" and SLURMEnvironment.detect():
        # Lightning's requeue for SLURM would save a state in the middle of an epoch. It would resume from that state
        # even if inputs have changed since.
        return SLURMEnvironment(auto_requeue=False)
    for cluster in (LSFEnvironment, MPIEnvironment):
        if cluster.detect():
            return cluster()
    if os.environ.keys() >= _KUBEFLOW and not {"LOCAL_RANK", "NODE_RANK"} & os.environ.keys():
        return KubeflowEnvironment()
    return LightningEnvironment()


def check_launched(config: TrainConfig) -> None:
    """Check that the number of started processes is devices x num_nodes.

    Otherwise Lightning would wait for ever, or each process would train alone.

    Raises:
        UserError: the numbers differ, or the launcher's variables are incomplete.
    """
    started, expected = _launched(), devices(config)
    if started not in (None, expected):
        raise UserError(
            f"{started} processes were started, but train.devices x train.num_nodes is {expected}. Start {expected}, "
            f"or set train.devices to the number of processes on each node (with one node, train.devices: {started})."
        )
    # MASTER_ADDR and MASTER_PORT can be set by hand; Lightning sets them for the processes that it starts itself.
    if started is None and config.num_nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"train.num_nodes is {config.num_nodes}, but several nodes need a launcher. Choose one node as HOST and a "
            f"free PORT of this node. Then run on each node: torchrun --nnodes={config.num_nodes} "
            f"--nproc-per-node={devices_per_node(config)} --rdzv-backend=c10d --rdzv-endpoint=HOST:PORT "
            "-m stages.train. Or start python -m stages.train with srun. For one machine, set train.num_nodes: 1"
        )


def _launched() -> int | None:
    """How many processes a launcher started; None: no launcher. UserError: its variables are incomplete."""
    try:
        environment = launcher()
        if not isinstance(environment, LightningEnvironment):
            environment.global_rank(), environment.local_rank(), environment.node_rank()
            return environment.world_size()
    except Exception as error:
        raise UserError(
            f"a launcher started this process, but Lightning cannot use it ({_reason(error)}). Use torchrun, or srun "
            "with --nodes and --ntasks-per-node. For one process, start it without a launcher."
        ) from error
    interactive = int(os.environ.get("SLURM_PROCID", "0")) > 0
    mpi_size = next((name for name in _MPI_SIZES if os.environ.get(name, "1") != "1"), None)
    if interactive or mpi_size:
        cause = (
            "SLURM_PROCID is not 0 in an interactive job"
            if interactive
            else f"{mpi_size} is {os.environ[str(mpi_size)]}"
        )
        raise UserError(
            f"{cause}, so several processes were started, but each would train alone. For mpirun, install mpi4py. "
            "Otherwise start one process, or use torchrun or srun."
        )
    return None


def _reason(error: Exception) -> str:
    return f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)


def resolved_precision(config: TrainConfig) -> str:
    """Lightning's precision for `amp_dtype` on this machine. UserError: fp16 on a CPU, which cannot scale gradients."""
    kind = device_kind(config)
    if config.amp_dtype == "fp16" and kind == "cpu":
        raise UserError("train.amp_dtype fp16 needs a GPU. Use null or bf16 on a CPU.")
    if config.portable:
        return "32-true"
    if config.amp_dtype != "auto":
        return {None: "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[config.amp_dtype]
    if kind == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    # CPU instructions that multiply bfloat16: they halve the time of a training step.
    multiplies_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if kind == "cpu" and multiplies_bf16 else "32-true"


def build_trainer(
    config: TrainConfig,
    *,
    callbacks: Sequence[Callback] = (),
    trainer_class: type[Trainer] | None = None,
    **options: Any,
) -> Trainer:
    """A Lightning Trainer for a TrainingModule. It averages the weights if `train.use_ema` is set.

    Args:
        config: the section `train`.
        callbacks: more callbacks.
        trainer_class: a subclass of Trainer.
        options: more arguments of the Trainer. They override those from the config.

    Raises:
        UserError: this machine does not have the device or the precision.
    """
    use_portable(config)
    # Lightning warns of choices that are made here on purpose (workers, logging intervals).
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - a property of a module
    if "spawn" in config.strategy:
        raise UserError(
            f"train.strategy is {config.strategy}, which copies the training to other processes. That is impossible. "
            "Use ddp."
        )
    kind = device_kind(config)
    if kind == "cpu":
        keep_freed_memory()
    average = [WeightAveraging(config.ema_decay, config.ema_tau, config.ema_update_interval)] if config.use_ema else []
    all_callbacks = [*average, *callbacks]
    option = options.pop("plugins", None) or []
    plugins: list[Any] = [*option] if isinstance(option, list | tuple) else [option]
    if not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins):
        check_launched(config)
        plugins.append(launcher())
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
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
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in all_callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
        "plugins": plugins,
    }
    if any(isinstance(plugin, Precision) for plugin in plugins):
        del defaults["precision"]  # Lightning takes either the plugin or the option
    try:
        return (trainer_class or Trainer)(**defaults | options, callbacks=all_callbacks)
    except (MisconfigurationException, ImportError, ValueError) as error:
        settings = ", ".join(f"{name} {defaults[name]}" for name in ("strategy", "accelerator", "devices", "num_nodes"))
        raise UserError(f"Lightning cannot train with {settings}: {error}") from error


def with_batch_size(
    config: TrainConfig, model: ModelConfig, architecture: Architecture, side: int, state: Path
) -> TrainConfig:
    """The config with numbers instead of `batch_size: auto`. On CUDA the batch is as large as fits into memory.

    Args:
        config: the section `train`.
        model: the section `model`.
        architecture: of the model.
        side: largest side of the input in pixels.
        state: file of an interrupted training. Its batch size is used again, because free memory changes.

    Raises:
        UserError: not even one image fits.
    """
    if config.batch_size != "auto":
        return config
    try:
        run = read_plain(state)["run"]
        size = None if run["finished"] else int(run["fingerprint"]["machine.batch_size"])
    except (UserError, KeyError, TypeError, ValueError):
        size = None
    if size is None and device_kind(config) == "cuda":
        size = usable(largest(Probe(config, model, architecture, side)), config)
    size = size or min(CPU_BATCH_SIZE, config.auto_batch_target_effective)
    steps = math.ceil(config.auto_batch_target_effective / size)
    return config.model_copy(update={"batch_size": size, "grad_accum_steps": steps})


def largest(fits: Callable[[int], bool]) -> int:
    """The largest batch size up to 128 for which `fits` is true. If a size fits, each smaller size must fit.

    Raises:
        UserError: one image does not fit.
    """
    if not fits(1):
        raise UserError(
            "train.batch_size auto: not even one image fits into device memory. Lower model.resolution, or set "
            "model.gradient_checkpointing."
        )
    low, high = 1, 2
    while high <= _MOST_IMAGES and fits(high):
        low, high = high, 2 * high
    high = min(high, _MOST_IMAGES + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def usable(most: int, config: TrainConfig) -> int:
    """The batch size to use if at most `most` images fit into memory.

    It is smaller than `most`, and with EMA smaller still. This is upstream's rule.
    """
    size = math.floor(most * _USED_PART)
    return max(1, math.floor(size * config.auto_batch_ema_headroom) if config.use_ema else size)


def devices(config: TrainConfig) -> int:
    """The number of devices on all nodes."""
    return config.num_nodes * devices_per_node(config)


class Probe:
    """Tests whether a batch of some size fits into memory: it trains a whole step of a separate, untrained detector.

    Args:
        config: the section `train`.
        model: the section `model`.
        architecture: of the model.
        side: side of the input in pixels.
        device: where to train.
    """

    def __init__(
        self, config: TrainConfig, model: ModelConfig, architecture: Architecture, side: int, device: str = "cuda"
    ) -> None:
        self.config, self.architecture, self.side, self.device = config, architecture, side, device
        economy = {"gradient_checkpointing": model.gradient_checkpointing, "freeze_encoder": model.freeze_encoder}
        self.detector = build_detector(architecture, drop_path=config.drop_path, **economy).to(device).train()
        no_change = TrainConfig().model_copy(update={"lr": 0.0, "lr_encoder": 0.0, "weight_decay": 0.0})
        self.optimizer = build_optimizer(self.detector, no_change)
        self.criterion = Criterion(LossConfig.of(vars(config)))

    def __call__(self, images: int) -> bool:
        """Try two steps with this many images. The second needs more: the optimiser's state exists."""
        try:
            self._step(images)
            self._step(images)
        except torch.OutOfMemoryError:
            return False
        finally:
            self.optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
        return True

    def _step(self, images: int) -> None:
        side, count = self.side, self.config.auto_batch_max_targets_per_image
        boxes = torch.full((count, 4), 0.5, device=self.device)
        masks = torch.ones(count, side, side, dtype=torch.bool, device=self.device)
        labels = torch.zeros(count, dtype=torch.long, device=self.device)
        targets = [Target(labels, boxes, masks if self.architecture.segmentation else None)] * images
        pixels = torch.zeros(images, self.architecture.channels, side, side, device=self.device)
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolved_precision(self.config))
        with torch.autocast(self.device, dtype=half, enabled=half is not None):
            output = self.detector(pixels)
        losses = self.criterion(output, targets, groups=self.architecture.groups, point_seed=0, shared=False)
        torch.autograd.backward(losses.total)
        self.optimizer.step()
        self.optimizer.zero_grad()
