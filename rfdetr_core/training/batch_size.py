"""`batch_size: auto`: how many images fit on the device, and how many batches an optimiser step then takes."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from pathlib import Path

import torch

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.files import read_plain
from rfdetr_core.loss.criterion import Criterion
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.model.config import Architecture, ModelConfig
from rfdetr_core.model.detector import build_detector
from rfdetr_core.ops.structures import Target
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimization import build_optimizer
from rfdetr_core.training.trainer import device_kind, devices_per_node, resolved_precision

CPU_BATCH_SIZE = 4  # images per batch, where memory is not probed: the default of batch_size
_LIMIT = 128
_PART = 0.9  # of what fits: real batches differ from the probed one


def with_batch_size(
    config: TrainConfig, model: ModelConfig, architecture: Architecture, side: int, state: Path
) -> TrainConfig:
    """The config with numbers for `batch_size: auto`, which on CUDA is the largest that trains at side x side pixels.

    state: the file an interrupted training goes on from; its size is kept, since free memory differs by the moment.

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


def largest(fits: Callable[[int], bool], limit: int = _LIMIT) -> int:
    """The largest batch up to `limit` that fits, if none larger fits where a smaller one does not.

    Raises:
        UserError: one image does not fit.
    """
    if not fits(1):
        raise UserError(
            "train.batch_size auto: not even one image fits on the device. Lower model.resolution, or set "
            "model.gradient_checkpointing."
        )
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def usable(most: int, config: TrainConfig) -> int:
    """What to take of the most that fits: a part, less with an averaged copy of the weights (upstream's rule)."""
    size = math.floor(most * _PART)
    return max(1, math.floor(size * config.auto_batch_ema_headroom) if config.use_ema else size)


def devices(config: TrainConfig) -> int:
    """Devices of all nodes."""
    return config.num_nodes * devices_per_node(config)


class Probe:
    """Whether a batch of some size trains on CUDA: a whole step, of a detector of its own with any weights."""

    def __init__(
        self, config: TrainConfig, model: ModelConfig, architecture: Architecture, side: int, device: str = "cuda"
    ) -> None:
        self.config, self.architecture, self.side, self.device = config, architecture, side, device
        economy = {"gradient_checkpointing": model.gradient_checkpointing, "freeze_encoder": model.freeze_encoder}
        self.detector = build_detector(architecture, drop_path=config.drop_path, **economy).to(device).train()
        still = TrainConfig().model_copy(update={"lr": 0.0, "lr_encoder": 0.0, "weight_decay": 0.0})
        self.optimizer = build_optimizer(self.detector, still)
        self.criterion = Criterion(LossConfig.of(vars(config)))

    def __call__(self, images: int) -> bool:
        """Try a batch of this many images, twice: the first makes the optimiser's state, the next has it beside it."""
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
