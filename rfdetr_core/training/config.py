"""The `train` section of params.yaml (tracked: it decides the result) and the `runtime` section (it does not)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rfdetr_core.data.config import AugmentConfig
from rfdetr_core.params import Config

Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


class TrainConfig(Config):
    """What training does. Names and defaults are upstream's, but for seed, precision and deterministic."""

    epochs: int = Field(100, gt=0, description="passes over the training images")
    batch_size: int = Field(4, gt=0, description="images per device and step")
    grad_accum_steps: int = Field(1, gt=0, description="batches per optimiser step")
    lr: float = Field(1e-4, gt=0, description="learning rate of decoder, projector and heads")
    lr_encoder: float = Field(1.5e-4, ge=0, description="learning rate of the encoder, before its decay by depth")
    lr_vit_layer_decay: float = Field(
        0.8, gt=0, le=1, description="factor per encoder block, from the last to the first"
    )
    lr_component_decay: float = Field(0.7, gt=0, le=1, description="factor of the decoder, squared that of the encoder")
    weight_decay: float = Field(1e-4, ge=0, description="of AdamW")
    lr_scheduler: Literal["step", "cosine"] = Field("step", description="x 0.1 after lr_drop epochs, or half a cosine")
    lr_drop: int = Field(100, gt=0, description="epochs until the step schedule drops")
    lr_min_factor: float = Field(0.0, ge=0, lt=1, description="where the cosine ends, as a part of the learning rate")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear growth from 0")
    clip_max_norm: float = Field(0.1, ge=0, description="largest norm of the gradient; 0: no clipping")
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="stochastic depth of the encoder's last block, 0 at its first"
    )
    ema_decay: float = Field(0.993, ge=0, lt=1, description="of the moving average of the weights")
    ema_tau: float = Field(
        100.0, ge=0, description="optimiser steps until the average's decay is near ema_decay; 0: at once"
    )
    cls_loss_coef: float = Field(1.0, ge=0, description="weight of the class loss")
    bbox_loss_coef: float = Field(5.0, ge=0, description="weight of the L1 box loss")
    giou_loss_coef: float = Field(2.0, ge=0, description="weight of the GIoU loss")
    mask_ce_loss_coef: float = Field(5.0, ge=0, description="weight of the mask cross-entropy (segmenters)")
    mask_dice_loss_coef: float = Field(5.0, ge=0, description="weight of the mask Dice loss (segmenters)")
    mask_point_sample_ratio: int = Field(16, gt=0, description="mask pixels per sampled point (segmenters)")
    multi_scale: bool = Field(True, description="train each step at a size drawn around the resolution")
    expanded_scales: bool = Field(True, description="a wider range of those sizes")
    augmentation: AugmentConfig = Field(
        default_factory=lambda: AugmentConfig(), description="changes of training images"
    )
    eval_interval: int = Field(1, gt=0, description="epochs between evaluations on valid; the last epoch is evaluated")
    best_model_metric: Literal["map", "map_50", "mar", "f1"] = Field("map", description="what picks the best epoch")
    early_stopping: bool = Field(False, description="stop when the best score no longer grows")
    early_stopping_patience: int = Field(10, gt=0, description="evaluations without growth that are waited for")
    early_stopping_min_delta: float = Field(0.001, ge=0, description="smallest growth that counts")
    early_stopping_use_ema: bool = Field(False, description="watch the EMA weights alone, not the better of both")
    seed: int = Field(0, ge=0, description="of everything random")
    precision: Precision = Field("auto", description="auto: bf16-mixed or 16-mixed on CUDA, 32-true elsewhere")
    deterministic: bool = Field(True, description="only algorithms that give equal bits again")
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="kind of device")
    devices: int | Literal["auto"] = Field(1, description="devices per node")
    num_nodes: int = Field(1, gt=0, description="machines")
    strategy: str = Field("auto", description="of Lightning: auto, ddp, fsdp, ...")
    resume: str | None = Field(None, description="a checkpoint.pth in weights/ to go on from, up to `epochs`")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} leaves none of the {self.epochs} epochs to train in.")
        if self.lr_scheduler == "step" and self.lr_min_factor:
            raise ValueError(f"lr_min_factor {self.lr_min_factor} has no effect on lr_scheduler step; use cosine or 0.")
        if self.devices != "auto" and self.devices < 1:
            raise ValueError(f"devices {self.devices} must be 1 or more, or auto.")
        return self


class RuntimeConfig(Config):
    """How a training is run and watched: nothing here changes its result, except that `threads` decides bits on CPU."""

    num_workers: int = Field(2, ge=0, description="processes that read images")
    threads: int | None = Field(None, gt=0, description="of computation on CPU; null: as many as torch finds")
    checkpoint_interval: int = Field(10, gt=0, description="epochs between the kept checkpoint_<epoch>.pth")
    progress_bar: bool = Field(True, description="on a terminal; a line per epoch is printed elsewhere")
    mlflow: bool = Field(True, description="track runs in MLflow: mlflow.db here, or where MLFLOW_TRACKING_URI points")
    project: str = Field("rfdetr", min_length=1, description="MLflow's experiment")
    run: str | None = Field(None, description="MLflow's name of the run")
