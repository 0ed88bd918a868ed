"""Callbacks of a training: average the weights (EMA), score both tracks, stop early.

The callbacks with upstream's names are in api/callbacks.py.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rfdetr_core.base.printing import say
from rfdetr_core.data.dataset import decode_masks
from rfdetr_core.metrics.coco import coco_results, coded_mask
from rfdetr_core.metrics.names import PREFIX, REPORTED
from rfdetr_core.metrics.quick import quick_score
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.ops.boxes import cxcywh_to_xyxy
from rfdetr_core.training.module import TrainingModule

if TYPE_CHECKING:
    from rfdetr_core.api.callbacks import (
        BestModelCallback,
        COCOEvalCallback,
        DropPathCallback,
        RFDETREarlyStopping,
        RFDETREMACallback,
    )

_API_NAMES = (
    "BestModelCallback",
    "COCOEvalCallback",
    "DropPathCallback",
    "RFDETREMACallback",
    "RFDETREarlyStopping",
)
__all__ = [
    "BestModelCallback",
    "COCOEvalCallback",
    "CocoScoring",
    "DropPathCallback",
    "EarlyStopping",
    "RFDETREMACallback",
    "RFDETREarlyStopping",
    "TrainScoring",
    "WeightAverage",
    "WeightAveraging",
]


def __getattr__(name: str) -> Any:
    if name not in _API_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("rfdetr_core.api.callbacks"), name)


class WeightAverage:
    """An averaged copy of a detector, `module`, in evaluation mode and without gradients.

    Update 1 copies the weights. Update n > 1 computes average = d * average + (1 - d) * weights, where
    d = decay * (1 - exp(-n / tau)), or d = decay if tau is 0. All parameters are averaged, frozen ones too. Buffers are
    copied. The formula is that of upstream's training/callbacks/ema.py.

    Args:
        detector: the network that is trained.
        decay: the part of the average that an update keeps in the long run.
        tau: updates until the kept part is near `decay`; 0: it is `decay` at once.
    """

    def __init__(self, detector: nn.Module, decay: float, tau: float) -> None:
        self.decay, self.tau = decay, tau
        self.module = copy.deepcopy(detector).eval().requires_grad_(False)
        self._detector = detector

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Add the detector's current weights to the average. updates: the number of this update, from 1."""
        average, weights, with_buffers = self._lists
        if updates == 1:
            torch._foreach_copy_(average, weights)
        else:
            kept_part = self.decay * (1 - math.exp(-updates / self.tau)) if self.tau > 0 else self.decay
            torch._foreach_lerp_(average, weights, 1 - kept_part)
        for module, detector in with_buffers:
            for averaged, trained in zip(module.buffers(recurse=False), detector.buffers(recurse=False), strict=True):
                averaged.copy_(trained)

    @cached_property
    def _lists(self) -> tuple[list[Tensor], list[Tensor], list[tuple[nn.Module, nn.Module]]]:
        """The parameters of the average, those of the detector, and the pairs of modules that have buffers.

        They are listed once, at the first update, when all are on their device. To walk through the modules at every
        step would take the host longer than to start the kernels.
        """
        modules = zip(self.module.modules(), self._detector.modules(), strict=True)
        with_buffers = [pair for pair in modules if list(pair[1].buffers(recurse=False))]
        return list(self.module.parameters()), list(self._detector.parameters()), with_buffers


class WeightAveraging(Callback):
    """The callback that updates a `WeightAverage` during training. The module validates it as the track "ema".

    Args:
        decay, tau: see `WeightAverage`.
        interval: optimiser steps between two updates.
    """

    average: WeightAverage

    def __init__(self, decay: float, tau: float, interval: int = 1) -> None:
        self.decay, self.tau, self.interval, self.steps = decay, tau, interval, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the detector before its weights are restored or moved to a device."""
        assert isinstance(pl_module, TrainingModule)
        if stage == "fit":
            self.average = WeightAverage(pl_module.detector, self.decay, self.tau)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move the average to the detector's device and add it as the track "ema"."""
        assert isinstance(pl_module, TrainingModule)
        pl_module.tracks["ema"] = self.average.module.to(pl_module.device)
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the average if this batch ended an optimiser step."""
        assert isinstance(pl_module, TrainingModule)
        if trainer.global_step != self.steps and trainer.global_step % self.interval == 0:
            self.average.update(trainer.global_step // self.interval)
        self.steps = trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, under the names of the detector's weights. A run resumes from them."""
        return self.average.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the average of an interrupted run. A missing or unknown name is an error."""
        self.average.module.load_state_dict(state_dict)


class CocoScoring(Callback):
    """Scores the detections of each track on the validation images. The scores are exact for any number of ranks."""

    def __init__(
        self,
        annotations: dict[str, Any],
        segmentation: bool,
        interval: int = 1,
        *,
        max_dets: int = 100,
        per_class: bool = False,
        mask_side: int | None = None,
    ) -> None:
        """Set up scoring.

        Args:
            annotations: the ground truth as canonical COCO.
            segmentation: also score masks.
            interval: epochs between two evaluations. The last epoch is always evaluated.
            max_dets: the best detections of each image and class that count.
            per_class: also record AP/<class>.
            mask_side: side of the square masks of the detections in pixels; None: masks have the image's size.
        """
        self.interval, self.max_dets, self.per_class, self.mask_side = interval, max_dets, per_class, mask_side
        self.kinds: dict[str, Literal["bbox", "segm"]] = {"": "bbox", "segm_": "segm"} if segmentation else {"": "bbox"}
        self.detections: dict[str, list[dict[str, Any]]] = {}
        self.set_annotations(annotations)

    def set_annotations(self, annotations: dict[str, Any]) -> None:
        """Use these annotations as the ground truth from now on."""
        self.annotations = annotations
        self.masks = annotations if self.mask_side is None else _at_side(annotations, self.mask_side)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set whether Lightning validates this epoch."""
        trainer.check_val_every_n_epoch = 1 if _evaluated(trainer, self.interval) else self.interval

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the detections of the previous epoch."""
        self.detections = {}

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        """Collect the detections of a batch."""
        for track, results in outputs.items():
            self.detections.setdefault(track, []).extend(results)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the epoch and record val/* and val/ema_*."""
        if not trainer.sanity_checking:
            self.score(trainer, pl_module, "val/")

    def score(self, trainer: Trainer, pl_module: LightningModule, start: str) -> None:
        """Score every track and record the values.

        Args:
            trainer, pl_module: of Lightning.
            start: prefix of the names of the values, such as val/.
        """
        assert isinstance(pl_module, TrainingModule)
        for track in pl_module.tracks:
            results = _gathered(self.detections.get(track, []), trainer.world_size)
            for kind, iou_type in self.kinds.items():
                truth = self.annotations if iou_type == "bbox" else self.masks
                scores = quick_score(truth, results, iou_type, self.max_dets)
                values, prefix = scores.numbers(), PREFIX[track].replace("val/", start) + kind
                pl_module.record({prefix + name: values[key] for name, key in REPORTED.items()})
                if self.per_class:
                    pl_module.record(
                        {f"{prefix}AP/{class_scores.name}": class_scores.ap for class_scores in scores.per_class}
                    )


class TrainScoring(Callback):
    """Scores the boxes of the training steps, as train/mAP_50_95 and so on.

    The images are augmented, and the weights change from step to step, so the scores are only a rough guide.

    Args:
        classes: names of the classes, in the order of their ids.
        interval: epochs between two evaluations.
        max_dets: the best detections of each image and class that count.
    """

    def __init__(self, classes: Sequence[str], interval: int = 1, max_dets: int = 100) -> None:
        self.categories = [{"id": index, "name": name} for index, name in enumerate(classes)]
        self.interval, self.max_dets = interval, max_dets
        self.detections: list[dict[str, Any]] = []
        self.truth: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the rows of the previous epoch."""
        self.detections, self.truth = [], []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect labels and detections of a batch, in pixels of the batch's images."""
        assert isinstance(pl_module, TrainingModule)
        if not _evaluated(trainer, self.interval):
            return
        side, limit = batch.images.shape[-1], pl_module.architecture.queries
        decoded = postprocess(outputs["output"], [(side, side)] * len(batch.targets), limit)
        for index, (target, detections) in enumerate(zip(batch.targets, decoded, strict=True)):
            image = (batch_idx * trainer.world_size + trainer.global_rank) * len(batch.targets) + index + 1
            self.detections += coco_results(image, detections)
            corners = cxcywh_to_xyxy(target.boxes.double().cpu()) * side
            for label, (x1, y1, x2, y2) in zip(target.labels.tolist(), corners.tolist(), strict=True):
                box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
                self.truth.append({"image_id": image, "category_id": label, **box})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the epoch and record train/*."""
        assert isinstance(pl_module, TrainingModule)
        if not _evaluated(trainer, self.interval):
            return
        detections, truth = (_gathered(rows, trainer.world_size) for rows in (self.detections, self.truth))
        annotations = {
            "images": [{"id": image} for image in sorted({row["image_id"] for row in (*detections, *truth)})],
            "categories": self.categories,
            "annotations": [row | {"id": number} for number, row in enumerate(truth, start=1)],
        }
        values = quick_score(annotations, detections, "bbox", self.max_dets).numbers()
        pl_module.record({f"train/{name}": values[key] for name, key in REPORTED.items()})


class EarlyStopping(Callback):
    """Stops the training when the score has not grown by `min_delta` in `patience` evaluations.

    Args:
        key: name of the score in history.csv, without val/ or val/ema_.
        patience: evaluations without growth after which training stops.
        min_delta: the smallest growth that counts.
        use_ema: watch only the score of the EMA weights, not the better score of both tracks.
    """

    def __init__(self, key: str, patience: int, min_delta: float, use_ema: bool) -> None:
        self.keys = [PREFIX[track] + key for track in (("ema",) if use_ema else PREFIX)]
        self.patience, self.min_delta, self.verbose = patience, min_delta, True
        self.best, self.waited = -math.inf, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the epoch's scores, if it was evaluated, with the best so far."""
        assert isinstance(pl_module, TrainingModule)
        scores = [pl_module.epoch_metrics[key] for key in self.keys if key in pl_module.epoch_metrics]
        if scores:
            value = max((score for score in scores if math.isfinite(score)), default=-math.inf)
            has_grown = value > self.best + self.min_delta
            self.best, self.waited = (value, 0) if has_grown else (self.best, self.waited + 1)
            if self.waited >= self.patience:
                trainer.should_stop = True
                if trainer.is_global_zero and self.verbose:
                    say(
                        f"stopping early after epoch {trainer.current_epoch + 1}: in {self.waited} evaluations "
                        f"{' and '.join(self.keys)} did not exceed {self.best:.3f} by more than {self.min_delta:g} "
                        "(train.early_stopping_patience, early_stopping_min_delta)"
                    )

    def state_dict(self) -> dict[str, Any]:
        """The values from which a run resumes."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the count of evaluations without growth.

        A training that had stopped early starts counting again: it is resumed for more epochs.
        """
        self.best, self.waited = state_dict["best"], state_dict["waited"]
        if self.waited >= self.patience:
            self.waited = 0


def _evaluated(trainer: Trainer, interval: int) -> bool:
    epochs = trainer.current_epoch + 1
    return epochs % interval == 0 or (trainer.max_epochs is not None and epochs >= trainer.max_epochs)


def _at_side(annotations: dict[str, Any], side: int) -> dict[str, Any]:
    """Annotations with masks of side x side pixels: each pixel is the nearest one of the image's mask."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    rows = []
    for annotation in annotations["annotations"]:
        mask = decode_masks([annotation["segmentation"]], *sizes[annotation["image_id"]])
        rows.append(
            annotation | {"segmentation": coded_mask(F.interpolate(mask[None].float(), (side, side))[0, 0] > 0.5)}
        )
    return annotations | {"annotations": rows}


def _gathered(results: list[dict[str, Any]], world: int) -> list[dict[str, Any]]:
    if world == 1:
        return results
    rows_of_ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(rows_of_ranks, results)
    return sorted((row for part in rows_of_ranks for row in part), key=lambda row: int(row["image_id"]))
