"""Averaging the weights, scoring both tracks, stopping early."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch.distributed
from pytorch_lightning import Callback, LightningModule, Trainer

from rfdetr_core.metrics.coco import score
from rfdetr_core.training.ema import WeightAverage
from rfdetr_core.training.module import RFDETRModelModule

PREFIX = {"regular": "val/", "ema": "val/ema_"}
# Upstream's names of what is reported, and those of metrics.coco.
REPORTED = {
    "mAP_50_95": "map",
    "mAP_50": "map_50",
    "mAP_75": "map_75",
    "mAR": "mar_100",
    "F1": "f1",
    "precision": "precision",
    "recall": "recall",
}


class WeightAveraging(Callback):
    """Averages the weights after every optimiser step and has the average validated as the track "ema"."""

    average: WeightAverage

    def __init__(self, decay: float, tau: float) -> None:
        """See `ema.WeightAverage`."""
        self.decay, self.tau = decay, tau
        self.updates = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the detector before anything is restored or moved."""
        assert isinstance(pl_module, RFDETRModelModule)
        if stage == "fit":
            self.average = WeightAverage(pl_module.detector, self.decay, self.tau)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Join the detector on its device."""
        assert isinstance(pl_module, RFDETRModelModule)
        pl_module.tracks["ema"] = self.average.module.to(pl_module.device)
        self.updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average if the batch ended in an optimiser step."""
        assert isinstance(pl_module, RFDETRModelModule)
        if trainer.global_step != self.updates:
            self.updates = trainer.global_step
            self.average.update(pl_module.detector, self.updates)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a resume."""
        return self.average.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a stopped run."""
        self.average.load_state_dict(state_dict)


class CocoScoring(Callback):
    """Scores what each track finds on the validation images; exact under any number of ranks."""

    def __init__(self, annotations: dict[str, Any], segmentation: bool, interval: int = 1) -> None:
        """Take canonical COCO annotations and the epochs between evaluations; the last epoch is always evaluated."""
        self.annotations = annotations
        self.kinds: dict[str, Literal["bbox", "segm"]] = {"": "bbox", "segm_": "segm"} if segmentation else {"": "bbox"}
        self.interval = interval
        self.found: dict[str, list[dict[str, Any]]] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose whether this epoch is evaluated."""
        last = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        trainer.check_val_every_n_epoch = 1 if last else self.interval

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the detections of the epoch before."""
        self.found = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's results."""
        for track, results in outputs.items():
            self.found.setdefault(track, []).extend(results)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score every track and record val/* and val/ema_*."""
        assert isinstance(pl_module, RFDETRModelModule)
        if trainer.sanity_checking:
            return
        for track in pl_module.tracks:
            results = _gathered(self.found.get(track, []), trainer.world_size)
            for kind, iou_type in self.kinds.items():
                values = score(self.annotations, results, iou_type).numbers()
                pl_module.record({f"{PREFIX[track]}{kind}{name}": values[key] for name, key in REPORTED.items()})


class EarlyStopping(Callback):
    """Stops when the best score has not grown by `min_delta` over `patience` evaluations."""

    def __init__(self, key: str, patience: int, min_delta: float, use_ema: bool) -> None:
        """Watch the better of both tracks, or the EMA alone."""
        self.keys = [PREFIX[track] + key for track in (("ema",) if use_ema else PREFIX)]
        self.patience, self.min_delta = patience, min_delta
        self.best, self.waited = -math.inf, 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the epoch's scores, if it has any."""
        assert isinstance(pl_module, RFDETRModelModule)
        scores = [pl_module.epoch_metrics[key] for key in self.keys if key in pl_module.epoch_metrics]
        if not scores:
            return
        value = max((one for one in scores if math.isfinite(one)), default=-math.inf)
        grown = value > self.best + self.min_delta
        self.best, self.waited = (value, 0) if grown else (self.best, self.waited + 1)
        trainer.should_stop = trainer.should_stop or self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """For a resume."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on waiting."""
        self.best, self.waited = state_dict["best"], state_dict["waited"]


def _gathered(results: list[dict[str, Any]], world: int) -> list[dict[str, Any]]:
    if world == 1:
        return results
    of_ranks: list[Any] = [None] * world
    torch.distributed.all_gather_object(of_ranks, results)
    return sorted((one for part in of_ranks for one in part), key=lambda one: int(one["image_id"]))
