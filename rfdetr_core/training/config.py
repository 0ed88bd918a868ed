"""The sections `train` and `runtime` of params.yaml.

`train` decides the result, so DVC tracks it. `runtime` does not, except for `threads`: on a CPU it can change the last
bits.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from importlib import metadata
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from rfdetr_core.base.code import CLASSES
from rfdetr_core.base.errors import UserError
from rfdetr_core.base.imports import check_class
from rfdetr_core.base.params import Config
from rfdetr_core.data.augmentation import AugmentConfig
from rfdetr_core.loss.terms import TERMS
from rfdetr_core.model.config import VARIANTS, ModelConfig
from rfdetr_core.training.schedule import SCHEDULES

# The optimisers by name. torch's Muon, LBFGS and SparseAdam cannot train every parameter of a detector.
_TORCH_OPTIMIZERS = ["Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW"]
_TORCH_OPTIMIZERS += ["ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]
OPTIMIZERS = {name.lower(): f"torch.optim.{name}" for name in _TORCH_OPTIMIZERS}
PLATEAU = "torch.optim.lr_scheduler.ReduceLROnPlateau"
_EMA_KEYS = ("ema_decay", "ema_tau", "ema_update_interval", "early_stopping_use_ema", "auto_batch_ema_headroom")
_MASK_KEYS = tuple(term.coefficient for term in TERMS if term.mask)
_MASK_KEYS += ("mask_point_sample_ratio", "eval_masks_head_resolution")
_SCHEDULES = "".join(f"{name}: {schedule.meaning}; " for name, schedule in SCHEDULES.items())
_CLASS = "package.module.Class of an installed package or of rfdetr_core"
# Keys of `runtime` that need a package. The extra that installs it has the same name.
EXTRAS = ("tensorboard", "wandb", "clearml")


class TrainConfig(Config):
    """The section `train`. The names are upstream's. docs/parameters.md says which defaults differ, and why."""

    epochs: int = Field(100, gt=0, description="passes over the training images")
    batch_size: int | Literal["auto"] = Field(
        4, description="images per device and batch; auto: by the memory of a CUDA device, 4 on other devices"
    )
    grad_accum_steps: int = Field(1, gt=0, description="batches per optimiser step")
    auto_batch_target_effective: int = Field(
        16, gt=0, description="with batch_size auto: the least number of images per optimiser step"
    )
    auto_batch_max_targets_per_image: int = Field(
        100, gt=0, description="with batch_size auto: objects in each artificial image with which batches are tried"
    )
    auto_batch_ema_headroom: float = Field(
        0.7,
        gt=0,
        le=1,
        description="with batch_size auto and use_ema: factor for the batch size, as EMA needs memory too",
    )
    eval_batch_size: int | None = Field(None, gt=0, description="images per validation batch; null: batch_size")
    lr: float = Field(1e-4, gt=0, description="learning rate of decoder, projector and heads")
    lr_encoder: float = Field(1.5e-4, ge=0, description="learning rate of the encoder, before its decay by depth")
    lr_vit_layer_decay: float = Field(
        0.8, gt=0, le=1, description="each encoder block has the learning rate of the next block times this factor"
    )
    lr_component_decay: float = Field(
        0.7, gt=0, le=1, description="factor c: the decoder learns with lr x c, the encoder with lr_encoder x c^2"
    )
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of the optimiser")
    optimizer: str = Field("adamw", min_length=1, description=", ".join(OPTIMIZERS) + f", or {_CLASS}")
    optimizer_kwargs: dict[str, JsonValue] = Field({}, description="further arguments of the optimiser, such as betas")
    lr_scheduler: str = Field("step", min_length=1, description=_SCHEDULES + f"or {_CLASS}")
    lr_scheduler_kwargs: dict[str, JsonValue] = Field(
        {},
        description="; ".join(
            f"for {name}: {key}, {number.meaning} (default: {number.default:g})"
            for name, kind in SCHEDULES.items()
            for key, number in kind.numbers.items()
        ),
    )
    lr_scheduler_interval: Literal["step", "epoch"] = Field(
        "step", description="when a scheduler named as package.module.Class steps"
    )
    lr_scheduler_monitor: str = Field("val/loss", description="metric of each epoch that ReduceLROnPlateau watches")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs in which the learning rate grows linearly from 0")
    clip_max_norm: float = Field(0.1, ge=0, description="largest norm of the gradient; 0: no clipping")
    drop_path: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="rate of stochastic depth: rises linearly from 0 (first encoder block) to this value (last)",
    )
    use_ema: bool = Field(
        True,
        description="average the weights (EMA); false: checkpoint_best_ema.pth has the weights of "
        "checkpoint_best_regular.pth",
    )
    ema_decay: float = Field(0.993, ge=0, lt=1, description="decay of the moving average of the weights")
    ema_tau: float = Field(
        100.0,
        ge=0,
        description="how slowly the decay grows to ema_decay: a time constant, in EMA updates; 0: constant decay",
    )
    ema_update_interval: int = Field(1, gt=0, description="optimiser steps between two updates of the average")
    # A field for each loss term. In a class body, locals() is the namespace of the class. Writing the fields into it
    # puts them at this position between the other fields, so the keys in checkpoints keep their order.
    for _term in TERMS:
        _about = f"weight of the {_term.description}{' (segmenters)' if _term.mask else ''}"
        __annotations__[_term.coefficient] = float
        locals()[_term.coefficient] = Field(float(_term.default), ge=0, description=_about)
    del _term, _about
    mask_point_sample_ratio: int = Field(
        16, gt=0, description="n: the mask losses use one point for each n mask pixels (segmenters)"
    )
    multi_scale: Literal["per-batch", "per-sample", "off"] = Field(
        "per-batch",
        description="train at random input sizes around the resolution, drawn per batch or per image; true: per-batch, "
        "false: off",
    )
    expanded_scales: bool = Field(True, description="a wider range of the sizes of multi_scale")
    scale_jitter: bool = Field(True, description="crop half of the training images before they are resized")
    augmentation: AugmentConfig = Field(default_factory=AugmentConfig, description="changes of training images")
    class_names: list[str] | None = Field(
        None, description="the classes in order, checked against the dataset's; null: the dataset's"
    )
    eval_interval: int = Field(
        1, gt=0, description="epochs between evaluations on valid; the last epoch is always evaluated"
    )
    eval_max_dets: int = Field(
        100, gt=0, description="number of detections per image and class that are scored: those with the highest scores"
    )
    eval_masks_head_resolution: bool = Field(
        False, description="score masks on valid at the mask head's resolution: cheaper, coarser (segmenters)"
    )
    log_per_class_metrics: bool = Field(False, description="add val/AP/<class> to history.csv, for both tracks")
    compute_val_loss: bool | Literal["auto"] = Field(
        "auto",
        description="add val/loss and val/ema_loss to history.csv; auto: only if lr_scheduler_monitor is one of them",
    )
    compute_train_metrics: bool = Field(
        False, description="add box scores of the augmented training batches to history.csv, such as train/mAP_50_95"
    )
    compact_train_metrics: bool = Field(
        True,
        description="true: history.csv has one column train/loss_*_aux per loss term, the sum over the auxiliary "
        "outputs (earlier decoder layers, encoder's proposals); false: a column for each of them",
    )
    best_model_metric: Literal["map", "map_50", "mar", "f1"] = Field(
        "map",
        description="score on valid that selects the best epoch, and EMA or regular weights; for segmenters: of masks",
    )
    skip_best_epochs: int = Field(0, ge=0, description="number of epochs at the beginning that cannot be the best")
    smooth_alpha: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="smoothing of the scores by which the best regular epoch is chosen; 0: no smoothing",
    )
    early_stopping: bool = Field(False, description="stop when the best score no longer grows")
    early_stopping_patience: int = Field(10, gt=0, description="evaluations without growth after which training stops")
    early_stopping_min_delta: float = Field(0.001, ge=0, description="smallest growth that counts")
    early_stopping_use_ema: bool = Field(
        False, description="watch only the EMA score, not the better score of both tracks"
    )
    seed: int = Field(0, ge=0, description="seed of all random numbers")
    amp_dtype: Literal["auto", "bf16", "fp16"] | None = Field(
        "auto",
        description="mixed precision; auto: bf16 or fp16 on CUDA, bf16 on a CPU with bf16 instructions; null: fp32",
    )
    deterministic: bool = Field(True, description="only algorithms that give equal results for equal inputs")
    portable: bool = Field(
        False, description="experimental: on a CPU, arithmetic that is the same on any x86-64 processor with AVX2; slow"
    )
    compile: Literal["off", "default"] = Field(
        "off",
        description="the value `default` compiles the network's blocks for this machine; true means `default`, "
        "false means off",
    )
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="kind of device")
    devices: int | Literal["auto"] = Field(1, description="devices per node")
    num_nodes: int = Field(1, gt=0, description="machines")
    strategy: str = Field("auto", description="Lightning's strategy: auto, ddp, fsdp, ...")
    resume: str | None = Field(
        None, description="a checkpoint.pth in weights/: the training resumes from it and ends at `epochs`"
    )
    notes: JsonValue = Field(None, description="a note of your own, of any type; checkpoints keep it as args.notes")

    @field_validator("multi_scale", "compile", mode="before")
    @classmethod
    def _mode(cls, value: Any, info: Any) -> Any:
        on = {"multi_scale": "per-batch", "compile": "default"}[info.field_name]
        return {True: on, False: "off"}[value] if isinstance(value, bool) else value

    @field_validator("batch_size", "devices")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("it must be 1 or more, or auto.")
        return value

    @field_validator("optimizer", "lr_scheduler")
    @classmethod
    def _known(cls, value: str, info: Any) -> str:
        names: Collection[str] = OPTIMIZERS if info.field_name == "optimizer" else SCHEDULES
        if "." not in value and value.lower() not in names:
            raise ValueError(f"unknown name. Use {', '.join(names)}, or a class as package.module.Class.")
        return value if "." in value else value.lower()

    @field_validator("notes", "optimizer_kwargs", "lr_scheduler_kwargs")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("it must not contain nan or inf.") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be less than epochs {self.epochs}.")
        if self.skip_best_epochs >= self.epochs:
            raise ValueError(f"skip_best_epochs {self.skip_best_epochs} must be less than epochs {self.epochs}.")
        weights = [term.coefficient for term in TERMS if not term.mask]
        if not any(getattr(self, name) for name in weights):
            raise ValueError(f"{', '.join(weights)} are all 0: nothing would be learnt.")
        self._check_schedule()
        if reserved := {"params", "lr", "weight_decay", "fused", "foreach"} & self.optimizer_kwargs.keys():
            raise ValueError(f"Remove {', '.join(sorted(reserved))} from optimizer_kwargs: other options set it.")
        if self.batch_size == "auto":
            if self.grad_accum_steps != 1:
                raise ValueError(
                    "batch_size auto also sets grad_accum_steps. Remove grad_accum_steps, or give batch_size a number."
                )
            if self.devices != 1 or self.num_nodes != 1:
                raise ValueError("batch_size auto needs a single device. For more devices, give batch_size a number.")
        if self.portable:
            self._check_portable()
        if not self.use_ema:
            self._require_defaults("use_ema is false", _EMA_KEYS)
        elif self.strategy.startswith(("fsdp", "deepspeed")):
            raise ValueError(
                f"strategy {self.strategy} splits the weights, so EMA is not possible. Set use_ema: false."
            )
        return self

    def _check_portable(self) -> None:
        plain = self.accelerator in ("auto", "cpu") and self.amp_dtype in ("auto", None) and self.compile == "off"
        if not (plain and self.deterministic):
            raise ValueError(
                "portable computes in fp32 on the CPU: accelerator must be auto or cpu, amp_dtype auto "
                "or null, compile off, deterministic true."
            )

    def _check_schedule(self) -> None:
        if self.lr_scheduler in SCHEDULES:
            numbers = SCHEDULES[self.lr_scheduler].numbers
            if strange := sorted(self.lr_scheduler_kwargs.keys() - numbers):
                raise ValueError(
                    f"lr_scheduler_kwargs {', '.join(strange)} has no effect on lr_scheduler {self.lr_scheduler}, "
                    f"which takes {', '.join(numbers) or 'no arguments'}."
                )
            for name, value in self.lr_scheduler_kwargs.items():
                most = numbers[name].most
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                    raise ValueError(
                        f"lr_scheduler_kwargs {name} is {value!r}: it must be a number from 0 to {most:g}."
                    )
            self._require_defaults(f"lr_scheduler is {self.lr_scheduler}", ("lr_scheduler_interval",))
        elif self.warmup_epochs and (self.lr_scheduler == PLATEAU or self.lr_scheduler_interval == "epoch"):
            raise ValueError("warmup_epochs needs a schedule that steps with the optimiser. Remove warmup_epochs.")
        if self.lr_scheduler != PLATEAU:
            self._require_defaults(f"lr_scheduler is not {PLATEAU}", ("lr_scheduler_monitor",))
        elif self.lr_scheduler_monitor in ("val/loss", "val/ema_loss") and self.compute_val_loss is False:
            raise ValueError(f"lr_scheduler_monitor {self.lr_scheduler_monitor} needs compute_val_loss auto or true.")

    def _require_defaults(self, reason: str, names: tuple[str, ...]) -> None:
        if changed := [name for name in names if getattr(self, name) != type(self).model_fields[name].default]:
            raise ValueError(f"{', '.join(changed)} has no effect: {reason}.")

    @property
    def validation_loss(self) -> bool:
        """Whether the loss is computed on valid."""
        watched = self.lr_scheduler == PLATEAU and self.lr_scheduler_monitor.endswith("loss")
        return watched if self.compute_val_loss == "auto" else self.compute_val_loss


class RuntimeConfig(Config):
    """The section `runtime`: how a training is run and watched.

    Nothing here changes the result, except `threads`: on a CPU it can change the last bits.
    """

    num_workers: int = Field(2, ge=0, description="processes that read images")
    pin_memory: bool | None = Field(None, description="put batches into pinned memory; null: yes if training uses CUDA")
    persistent_workers: bool | None = Field(
        None, description="keep the processes that read images between epochs; null: yes"
    )
    prefetch_factor: int | None = Field(
        None, gt=0, description="batches that each of these processes reads ahead; null: 2"
    )
    threads: int | None = Field(
        None, gt=0, description="threads on a CPU; their number can change the last digits; null: torch's"
    )
    num_sanity_val_steps: int = Field(
        0, ge=0, description="validation batches that run before training, to find errors early; they are not scored"
    )
    checkpoint_interval: int = Field(10, gt=0, description="epochs between two files checkpoint_<epoch>.pth")
    progress_bar: Literal["tqdm", "rich"] | None = Field(
        "tqdm", description="style of the bar on a terminal and in notebooks; a line per epoch is always printed"
    )
    mlflow: bool = Field(
        True, description="track runs in MLflow: in mlflow.db of the project, or where MLFLOW_TRACKING_URI points"
    )
    tensorboard: bool = Field(False, description="write output/tensorboard/; needs the extra tensorboard")
    wandb: bool = Field(False, description="log to Weights & Biases (WANDB_MODE=offline: files); needs the extra wandb")
    clearml: bool = Field(False, description="log to ClearML (CLEARML_OFFLINE_MODE=1: files); needs the extra clearml")
    project: str = Field("rfdetr", min_length=1, description="the loggers' project, MLflow's experiment")
    run: str | None = Field(None, min_length=1, description="the loggers' name of the run")

    @field_validator("progress_bar", mode="before")
    @classmethod
    def _bar(cls, value: Any) -> Any:
        return {True: "tqdm", False: None}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_workers == 0 and (self.persistent_workers or self.prefetch_factor):
            raise ValueError("persistent_workers and prefetch_factor need num_workers above 0.")
        for name in EXTRAS:
            if getattr(self, name) and not list(metadata.distributions(name=name)):
                raise ValueError(f"{name} is not installed. Run: pip install -e '.[{name}]', or set {name}: false.")
        return self


def check_together(model: ModelConfig, train: TrainConfig) -> None:
    """Check the sections against each other, and the classes that they name.

    Raises:
        UserError: two options contradict each other, an option has no effect, or a class cannot be imported.
    """
    for key in CLASSES["train"]:
        if "." in (name := str(getattr(train, key))):
            try:
                check_class(name)
            except UserError as error:
                raise UserError(f"train.{key} is {name!r}: {error}") from None
    if model.num_channels != 3:
        raise UserError(f"model.num_channels is {model.num_channels}, but images are RGB: it must be 3 to train.")
    if train.resume is not None and model.pretrain_weights is not None:
        raise UserError(
            "train.resume and model.pretrain_weights are both set, but a resumed training already has weights. "
            "Remove one of them."
        )
    if not VARIANTS[model.variant].segmentation:
        changed = [name for name in _MASK_KEYS if getattr(train, name) != TrainConfig.model_fields[name].default]
        if changed:
            raise UserError(f"train.{changed[0]} has no effect: model.variant {model.variant} finds no masks.")
