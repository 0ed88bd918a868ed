"""The steps of training and validation. The detector is given; files, scores and averages belong to the callbacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
from rfdetr_core.data.batching import Batch, multi_scale_size
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.errors import UserError
from rfdetr_core.loss.config import LossConfig
from rfdetr_core.loss.criterion import Criterion, Losses
from rfdetr_core.metrics.coco import coco_results
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.postprocess import detections
from rfdetr_core.training.config import TrainConfig
from rfdetr_core.training.optimizer import build_optimizer
from rfdetr_core.training.schedule import learning_rate_factor

# Reading a value from an accelerator waits for it, so losses are looked at this often there.
_STEPS_BETWEEN_CHECKS = 20


class RFDETRModelModule(LightningModule):
    """Trains a detector. `tracks` are the networks that validation runs: "regular", and "ema" once averaging is on.

    `sizes` are the sides of the input to draw from in training; none: as it comes. `epoch_metrics` holds the epoch's
    values under the names of history.csv, `loss` the last step's.
    """

    loss: Tensor

    def __init__(
        self, detector: nn.Module, architecture: Architecture, config: TrainConfig, sizes: Sequence[int] = ()
    ) -> None:
        """Keep the detector (our `build_detector`, or a wrapper with its interface) and the numbers of training."""
        super().__init__()
        self.detector = detector
        self.architecture = architecture
        self.config = config
        self.sizes = list(sizes)
        coefficients = {field.name for field in fields(LossConfig)} & TrainConfig.model_fields.keys()
        self.criterion = Criterion(LossConfig(**{name: getattr(config, name) for name in coefficients}))
        self.tracks: dict[str, nn.Module] = {"regular": detector}
        self.epoch_metrics: dict[str, float] = {}
        self._sums: Tensor | None = None
        self._names: list[str] = []
        self._steps = 0
        self._fused = False
        self._unchecked: list[tuple[Tensor, list[str]]] = []
        self._objects: Tensor | None = None

    def configure_optimizers(self) -> Any:
        """AdamW with upstream's groups, and the schedule as a function of the optimiser step alone."""
        config, plain = self.config, isinstance(self.trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        self._fused = plain and self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        optimizer = build_optimizer(
            self.detector,
            lr=config.lr,
            lr_encoder=config.lr_encoder,
            weight_decay=config.weight_decay,
            vit_layer_decay=config.lr_vit_layer_decay,
            component_decay=config.lr_component_decay,
            fused=self._fused,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches) // config.epochs)

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                kind=config.lr_scheduler,
                steps_per_epoch=steps,
                epochs=config.epochs,
                warmup_epochs=config.warmup_epochs,
                lr_drop=config.lr_drop,
                min_factor=config.lr_min_factor,
            )

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the weights of a resume file, which has them as a model file has."""
        if not checkpoint["state_dict"]:
            weights = {name: tensor for name, tensor in checkpoint["model"].items() if name != KEYPOINT_MASK}
            checkpoint["state_dict"] = {f"detector.{to_ours(name)}": tensor for name, tensor in weights.items()}

    def on_train_epoch_start(self) -> None:
        """Make this epoch's dropout and drop path a function of (seed, epoch, rank), whatever ran before."""
        torch.manual_seed(mixed_seed("epoch", self.config.seed, self.current_epoch, self.global_rank))
        self._sums, self._steps, self.epoch_metrics = None, 0, {}
        self._unchecked.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, at the size drawn for this optimiser step."""
        batch = self._resized(batch)
        output = self.detector(batch.images, batch.padding)
        groups = self.architecture.groups
        seed = mixed_seed("points", self.config.seed, self.current_epoch, batch_idx, self.global_rank)
        losses = self.criterion(output, batch.targets, groups=groups, point_seed=seed)
        self._record(losses, batch)
        if self.trainer.accumulate_grad_batches == 1:
            return losses.total
        # Sums are accumulated and divided once by the objects of all batches, as if they had been one batch.
        number = float(sum(len(target.labels) for target in batch.targets) * groups)
        objects = self.trainer.strategy.reduce(torch.tensor(number, device=self.device), reduce_op="mean")
        self._objects = objects if self._objects is None else self._objects + objects
        return losses.total * objects.clamp(min=1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Turn accumulated sums into means over the objects, before the norm of the gradient is clipped."""
        if self._objects is None:
            return
        scale = self.trainer.accumulate_grad_batches / self._objects.clamp(min=1)
        torch._foreach_mul_([p.grad for p in self.parameters() if p.grad is not None], scale)
        self._objects = None

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm. Lightning itself refuses this for a fused optimiser, which is safe where nothing is scaled."""
        if not self._fused:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop at a loss that is not finite, before anything of it is scored or saved."""
        if self.device.type == "cpu" or self.trainer.is_last_batch or len(self._unchecked) >= _STEPS_BETWEEN_CHECKS:
            self._check_losses()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
        """What every track finds, as COCO results in pixels of the original images."""
        found: dict[str, list[dict[str, Any]]] = {}
        for track, network in self.tracks.items():
            output = network(batch.images, batch.padding)
            found[track] = []
            for index, sample in enumerate(batch.samples):  # one by one: masks of an image's size are large
                one = detections(output, index, (sample.height, sample.width), self.architecture.queries)
                found[track] += coco_results(sample.image_id, one)
        return found

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add values of this epoch to `epoch_metrics`, and hand them to Lightning's loggers and callbacks."""
        self.epoch_metrics |= metrics
        self.log_dict({name: float(value) for name, value in metrics.items()}, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        """Give the epoch's mean losses and the learning rate."""
        if self._sums is not None:
            means = self.trainer.strategy.reduce(self._sums / self._steps, reduce_op="mean").tolist()
            self.record({f"train/{name}": value for name, value in zip(self._names, means, strict=True)})
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        self.record({"train/lr": max(group["lr"] for group in optimizer.param_groups)})

    def _resized(self, batch: Batch) -> Batch:
        if not self.sizes:
            return batch
        side = multi_scale_size(self.global_step, self.sizes, self.config.seed)
        if side == batch.images.shape[-1]:
            return batch
        images = F.interpolate(batch.images, size=(side, side), mode="bilinear", align_corners=False)
        padding = batch.padding
        if padding is not None:
            padding = F.interpolate(padding[:, None].float(), size=(side, side))[:, 0] > 0.5
        return replace(batch, images=images, padding=padding)

    def _record(self, losses: Losses, batch: Batch) -> None:
        self._names = ["loss", *losses.terms]
        values = torch.stack([losses.total, *losses.terms.values()]).detach()
        self.loss, self._steps = values[0], self._steps + 1
        self._sums = values if self._sums is None else self._sums + values
        self._unchecked.append((values, [sample.path for sample in batch.samples]))

    def _check_losses(self) -> None:
        if torch.stack([values for values, _ in self._unchecked]).isfinite().all():
            self._unchecked.clear()
            return
        values, images = next(entry for entry in self._unchecked if not entry[0].isfinite().all())
        terms = ", ".join(f"{name} {value:g}" for name, value in zip(self._names, values.tolist(), strict=True))
        raise UserError(
            f"the loss of epoch {self.current_epoch} is not finite: {terms}. Images of the batch: {', '.join(images)}. "
            f"Lower train.lr (now {self.config.lr:g}), or train with precision 32-true (now {self.config.precision})."
        )
