"""The steps of training and validation, as a LightningModule.

It gets a detector and computes losses, gradients and detections. Files, scores and averaging are in the callbacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from rfdetr_core.base.errors import UserError
from rfdetr_core.checkpoint.keys import KEYPOINT_MASK, to_ours
from rfdetr_core.data.batching import Batch, resize_to_drawn_size
from rfdetr_core.data.seeding import mixed_seed
from rfdetr_core.loss.criterion import Criterion, Losses
from rfdetr_core.loss.terms import LossConfig
from rfdetr_core.metrics.coco import coco_results
from rfdetr_core.metrics.names import PREFIX
from rfdetr_core.model.config import Architecture
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.ops.structures import DetectorOutput
from rfdetr_core.training.config import PLATEAU, TrainConfig
from rfdetr_core.training.nonfinite import NonFiniteError, Step, Watch, replay_content
from rfdetr_core.training.optimization import build_optimizer, build_schedule

Terms: TypeAlias = dict[str, Tensor]  # the loss and its terms by name


class TrainingModule(LightningModule):
    """Trains a detector: one of `build_detector`, or one with the same interface.

    Attributes that callbacks use: `tracks` are the networks that validation runs ("regular", and "ema" if weights are
    averaged). `epoch_metrics` has the values of the epoch under the names of history.csv. `loss` and `terms` are the
    loss and its terms of the last step, on the device.

    Args:
        detector: the network.
        architecture: its numbers.
        config: the section `train`.
        sizes: sides of the input in pixels, from which each step draws; empty: images keep their size.
    """

    loss: Tensor
    terms: Terms

    def __init__(
        self, detector: nn.Module, architecture: Architecture, config: TrainConfig, sizes: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.detector, self.architecture, self.config, self.sizes = detector, architecture, config, list(sizes)
        self.criterion = Criterion(LossConfig.of(vars(config)))
        self.tracks: dict[str, nn.Module] = {"regular": detector}
        self.epoch_metrics: dict[str, float] = {}
        self.terms = {}
        self._sums: Tensor | None = None
        self._objects: Tensor | None = None
        self._names: tuple[str, ...] = ()
        self._validation: dict[str, Tensor] = {}
        self._steps, self._fused, self._watch = 0, False, Watch()

    def configure_optimizers(self) -> Any:
        """The optimiser, with upstream's parameter groups, and its learning-rate schedule."""
        config, plain = self.config, isinstance(self.trainer.strategy, (SingleDeviceStrategy, DDPStrategy))
        self._fused = plain and self.device.type in ("cpu", "cuda") and self.trainer.precision != "16-mixed"
        self._fused &= config.optimizer == "adamw"
        optimizer = build_optimizer(self.detector, config, fused=self._fused)
        self._trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        steps = max(1, int(self.trainer.estimated_stepping_batches) // config.epochs)
        return {"optimizer": optimizer, "lr_scheduler": build_schedule(optimizer, config, steps)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the weights from a state, which stores them under the names of a model file."""
        if not checkpoint["state_dict"]:
            weights = {name: tensor for name, tensor in checkpoint["model"].items() if name != KEYPOINT_MASK}
            checkpoint["state_dict"] = {f"detector.{to_ours(name)}": tensor for name, tensor in weights.items()}

    def on_train_epoch_start(self) -> None:
        """Seed this epoch's dropout and drop path by (seed, epoch, rank), whatever ran before."""
        torch.manual_seed(mixed_seed("epoch", self.config.seed, self.current_epoch, self.global_rank))
        self._sums, self._steps, self._watch, self.epoch_metrics = None, 0, Watch(), {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | dict[str, Any]:
        """The loss of a batch at the size of this optimiser step; with compute_train_metrics also the output."""
        config, epoch, groups = self.config, self.current_epoch, self.architecture.groups
        batch = batch.normalised()  # TrainingData has done it; other loaders have not
        if (mode := config.multi_scale) != "off" and self.sizes:
            batch = resize_to_drawn_size(batch, self.sizes, mode, config.seed, epoch=epoch, step=self.global_step)
        output = self.detector(batch.images, batch.padding)
        seed = mixed_seed("points", config.seed, epoch, batch_idx, self.global_rank)
        losses = self.criterion(output, batch.targets, groups=groups, point_seed=seed)
        values = torch.stack([losses.total, *losses.terms.values()]).detach()
        self.loss, self._names, self._steps = values[0], ("loss", *losses.terms), self._steps + 1
        self.terms = dict(zip(self._names, values, strict=True))
        self._sums = values if self._sums is None else self._sums + values
        self._watch.check(values, Step(batch, seed, self._names, values, batch_idx))
        if not self._fused:
            self._raise_if_not_finite(self._watch.first(last=True))
        loss = self._accumulated(losses, batch)
        if not config.compute_train_metrics:
            return loss
        first_group = slice(self.architecture.queries)
        first_detections = DetectorOutput(output.logits[:, first_group].detach(), output.boxes[:, first_group].detach())
        return {"loss": loss, "output": first_detections}

    def _accumulated(self, losses: Losses, batch: Batch) -> Tensor:
        if self.trainer.accumulate_grad_batches == 1:
            return losses.total
        # Sums over objects are accumulated and divided once by the objects of all batches, as in one large batch.
        count = float(sum(len(target.labels) for target in batch.targets) * self.architecture.groups)
        objects = self.trainer.strategy.reduce(torch.full((), count, device=self.device), reduce_op="mean")
        self._objects = objects if self._objects is None else self._objects + objects
        return losses.total * objects.clamp(min=1)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Divide accumulated gradients by the number of objects, before they are clipped."""
        if self._objects is None:
            return
        scale = self.trainer.accumulate_grad_batches / self._objects.clamp(min=1)
        torch._foreach_mul_([p.grad for p in self.parameters() if p.grad is not None], scale)
        self._objects = None

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm. Lightning refuses it for a fused optimiser, but without a gradient scaler it is safe."""
        if not self._fused:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        if gradient_clip_val:
            self._watch.check(torch.nn.utils.clip_grad_norm_(self._trained, gradient_clip_val))
        cast(Any, optimizer).found_inf = self._watch.bad  # if it is 1, AdamW changes no weight

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if the loss or gradient of a step is not finite, before its weights are scored or saved."""
        if self._fused:
            self._raise_if_not_finite(self._watch.first(last=self.trainer.is_last_batch))

    def on_validation_epoch_start(self) -> None:
        """Remove the losses of the previous epoch."""
        self._validation = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, list[dict[str, Any]]]:
        """The detections of every track, as COCO results in pixels of the original images."""
        results: dict[str, list[dict[str, Any]]] = {}
        if not batch.samples:
            return results
        batch = batch.normalised()
        # Each batch's loss is weighted by its number of objects, so the mean hardly depends on the batch size.
        objects = max(1, sum(len(target.labels) for target in batch.targets))
        seed = mixed_seed("valid points", self.config.seed, batch_idx, self.global_rank)
        for track, network in self.tracks.items():
            output = network(batch.images, batch.padding)
            if self.config.validation_loss:
                loss = self.criterion(output, batch.targets, groups=1, point_seed=seed, shared=False).total
                entry = torch.stack([loss * objects, loss.new_tensor(objects)])
                self._validation[track] = self._validation.get(track, torch.zeros_like(entry)) + entry
            results[track] = self.results(output, batch)
        return results

    def results(self, output: DetectorOutput, batch: Batch) -> list[dict[str, Any]]:
        """The detections of an output, as COCO results in pixels of the original images."""
        rows: list[dict[str, Any]] = []
        side = self.architecture.resolution // self.architecture.mask_downsample_ratio
        mask_size = (side, side) if self.config.eval_masks_head_resolution else None
        sizes = [(sample.height, sample.width) for sample in batch.samples]
        decoded = postprocess(output, sizes, self.architecture.queries, mask_size=mask_size)
        for sample, detections in zip(batch.samples, decoded, strict=True):
            rows += coco_results(sample.image_id, detections)
        return rows

    def on_validation_epoch_end(self) -> None:
        """Record the mean loss per object on valid, over all ranks."""
        for track in self.tracks if self.config.validation_loss and not self.trainer.sanity_checking else ():
            sums = self._validation.get(track, torch.zeros(2, device=self.device))
            total, objects = self.trainer.strategy.reduce(sums, reduce_op="sum").tolist()
            self.record({f"{PREFIX[track]}loss": total / max(objects, 1)})

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add values of this epoch to `epoch_metrics`, and pass them to Lightning's loggers and callbacks."""
        self.epoch_metrics |= metrics
        self.log_dict({name: float(value) for name, value in metrics.items()}, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        """Record the epoch's mean losses and the learning rate."""
        if self._sums is not None:
            means = self.trainer.strategy.reduce(self._sums / self._steps, reduce_op="mean").tolist()
            terms = dict(zip(self._names, means, strict=True))
            terms = compact(terms) if self.config.compact_train_metrics else terms
            self.record({f"train/{name}": value for name, value in terms.items()})
        self.record({"train/lr": max(group["lr"] for group in self.trainer.optimizers[0].param_groups)})
        monitor, validated = self.config.lr_scheduler_monitor, any(key.startswith("val/") for key in self.epoch_metrics)
        if self.config.lr_scheduler == PLATEAU and validated and monitor not in self.epoch_metrics:
            names = ", ".join(sorted(self.epoch_metrics))
            raise UserError(
                f"train.lr_scheduler_monitor is {monitor}, but an epoch has no such value. It has: {names}."
            )

    def _raise_if_not_finite(self, step: Step | None) -> None:
        if step is None:
            return
        terms, config, epoch = step.terms(), self.config, self.current_epoch
        lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        term_kind = "gradient" if all(map(math.isfinite, terms.values())) else "loss"
        message = (
            f"the {term_kind} of step {step.number} in epoch {epoch + 1} is not finite: "
            f"{', '.join(f'{name} {value:g}' for name, value in terms.items())}; learning rate {lr:g}. "
            f"Images of the batch: {', '.join(sample.path for sample in step.batch.samples)}. "
            f"Lower train.lr (now {config.lr:g}), or set train.amp_dtype to null (now {config.amp_dtype})."
        )
        details = {"epoch": epoch, "step": step.number, "lr": lr, "amp": str(self.trainer.precision)}
        weights, args = self.detector.state_dict(), config.model_dump(mode="json")
        raise NonFiniteError(message, replay_content(step, self.architecture, weights, args) | details)


def compact(terms: Mapping[str, float]) -> dict[str, float]:
    """The loss terms; those of inner decoder layers (_0, _1, ..) and proposals (_enc) are summed as loss_*_aux."""
    short: dict[str, float] = {}
    for name, value in terms.items():
        term, _, ending = name.rpartition("_")
        key = f"{term}_aux" if ending.isdigit() or ending == "enc" else name
        short[key] = short.get(key, 0.0) + value
    return short
