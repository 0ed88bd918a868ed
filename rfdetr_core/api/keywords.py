"""The keywords of the Python API, for editors and mypy. Written by `python -m rfdetr_core.config.reference`."""

import os
from typing import Any, Literal, Required, TypedDict

import torch


class AugmentKeywords(TypedDict, total=False):
    """The keys of `augmentation`."""

    crop_sides: list[int] | tuple[int, ...]
    """before a crop, the short side is scaled to one of these, at random; []: no crop (default: (400, 500, 600))"""
    crop_range: list[int] | tuple[int, int]
    """smallest and largest side of the square crop, in pixels of the scaled image (default: (384, 600))"""
    horizontal_flip: float
    """probability of a left-right flip (default: 0.5)"""
    vertical_flip: float
    """probability of an upside-down flip (default: 0.0)"""
    quarter_turn: float
    """probability of a turn by 90, 180 or 270 degrees (default: 0.0)"""
    brightness: float
    """b: pixels are multiplied by a random factor from 1 - b to 1 + b (default: 0.0)"""
    contrast: float
    """c: contrast is multiplied by a random factor from 1 - c to 1 + c (default: 0.0)"""
    saturation: float
    """s: saturation is multiplied by a random factor from 1 - s to 1 + s (default: 0.0)"""
    hue: float
    """h: the hue is shifted by a random part of the colour circle, from -h to h (default: 0.0)"""


class ModelKeywords(TypedDict, total=False):
    """The keywords of a class such as RFDETRNano."""

    pretrain_weights: str | os.PathLike[str] | None
    """path of a checkpoint, or a published name; None: a new model; default: the published weights"""
    resolution: int | None
    """side of the square input in pixels (allowed: see docs/training.md); None: the variant's (default: None)"""
    num_queries: int | None
    """number of queries: the largest number of objects found in an image; None: the variant's (default: None)"""
    group_detr: int | None
    """number of groups of queries in training (method: Group DETR); None: the variant's (default: None)"""
    num_channels: int | None
    """channels of the input (default: 3)"""
    freeze_encoder: bool | None
    """do not train the encoder (default: False)"""
    gradient_checkpointing: bool | None
    """recompute encoder activations: less memory, more time (default: False)"""
    num_classes: int | None
    """number of classes; None: as many as the weights have (default: None)"""
    device: str | int | torch.device | None
    """cpu, cuda, cuda:1 or mps; auto: CUDA if there is a GPU (default: 'auto')"""


class RunKeywords(TypedDict, total=False):
    """The settings of `train` that `evaluate` also takes."""

    output_dir: str | os.PathLike[str]
    """folder of the run's files (default: 'output')"""
    epochs: int
    """passes over the training images (default: 100)"""
    batch_size: int | Literal["auto"]
    """images per device and batch; auto: by the memory of a CUDA device, 4 on other devices (default: 4)"""
    grad_accum_steps: int
    """batches per optimiser step (default: 1)"""
    auto_batch_target_effective: int
    """with batch_size auto: the least number of images per optimiser step (default: 16)"""
    auto_batch_max_targets_per_image: int
    """with batch_size auto: objects in each artificial image with which batches are tried (default: 100)"""
    auto_batch_ema_headroom: float
    """with batch_size auto and use_ema: factor for the batch size, as EMA needs memory too (default: 0.7)"""
    eval_batch_size: int | None
    """images per validation batch; None: batch_size (default: None)"""
    lr: float
    """learning rate of decoder, projector and heads (default: 0.0001)"""
    lr_encoder: float
    """learning rate of the encoder, before its decay by depth (default: 0.00015)"""
    lr_vit_layer_decay: float
    """each encoder block has the learning rate of the next block times this factor (default: 0.8)"""
    lr_component_decay: float
    """factor c: the decoder learns with lr x c, the encoder with lr_encoder x c^2 (default: 0.7)"""
    weight_decay: float
    """weight decay of the optimiser (default: 0.0001)"""
    optimizer: str
    """adadelta, adafactor, adagrad, adam, adamax, adamw, asgd, nadam, radam, rmsprop, rprop, sgd, or
    package.module.Class of an installed package or of rfdetr_core (default: 'adamw')"""
    optimizer_kwargs: dict[str, Any]
    """further arguments of the optimiser, such as betas (default: {})"""
    lr_scheduler: str
    """step: the learning rate x 0.1 after lr_drop epochs; cosine: falls as half a cosine wave until the last epoch; or
    package.module.Class of an installed package or of rfdetr_core (default: 'step')"""
    lr_scheduler_kwargs: dict[str, Any]
    """for step: lr_drop, epochs (default: 100); for cosine: min_factor, factor of the learning rate at the end
    (default: 0) (default: {})"""
    lr_scheduler_interval: Literal["step", "epoch"]
    """when a scheduler named as package.module.Class steps (default: 'step')"""
    lr_scheduler_monitor: str
    """metric of each epoch that ReduceLROnPlateau watches (default: 'val/loss')"""
    warmup_epochs: float
    """epochs in which the learning rate grows linearly from 0 (default: 0.0)"""
    clip_max_norm: float
    """largest norm of the gradient; 0: no clipping (default: 0.1)"""
    drop_path: float
    """rate of stochastic depth: rises linearly from 0 (first encoder block) to this value (last) (default: 0.0)"""
    use_ema: bool
    """average the weights (EMA); False: checkpoint_best_ema.pth has the weights of checkpoint_best_regular.pth
    (default: True)"""
    ema_decay: float
    """decay of the moving average of the weights (default: 0.993)"""
    ema_tau: float
    """how slowly the decay grows to ema_decay: a time constant, in EMA updates; 0: constant decay (default: 100.0)"""
    ema_update_interval: int
    """optimiser steps between two updates of the average (default: 1)"""
    cls_loss_coef: float
    """weight of the class loss (default: 1.0)"""
    bbox_loss_coef: float
    """weight of the L1 box loss (default: 5.0)"""
    giou_loss_coef: float
    """weight of the GIoU loss (default: 2.0)"""
    mask_ce_loss_coef: float
    """weight of the mask cross-entropy (segmenters) (default: 5.0)"""
    mask_dice_loss_coef: float
    """weight of the mask Dice loss (segmenters) (default: 5.0)"""
    mask_point_sample_ratio: int
    """n: the mask losses use one point for each n mask pixels (segmenters) (default: 16)"""
    multi_scale: bool | Literal["per-batch", "per-sample", "off"]
    """train at random input sizes around the resolution, drawn per batch or per image; True: per-batch, False: off
    (default: 'per-batch')"""
    expanded_scales: bool
    """a wider range of the sizes of multi_scale (default: True)"""
    scale_jitter: bool
    """crop half of the training images before they are resized (default: True)"""
    augmentation: AugmentKeywords
    """changes of training images"""
    class_names: list[str] | tuple[str, ...] | None
    """the classes in order, checked against the dataset's; None: the dataset's (default: None)"""
    eval_interval: int
    """epochs between evaluations on valid; the last epoch is always evaluated (default: 1)"""
    eval_max_dets: int
    """number of detections per image and class that are scored: those with the highest scores (default: 100)"""
    eval_masks_head_resolution: bool
    """score masks on valid at the mask head's resolution: cheaper, coarser (segmenters) (default: False)"""
    log_per_class_metrics: bool
    """add val/AP/<class> to history.csv, for both tracks (default: False)"""
    compute_val_loss: bool | Literal["auto"]
    """add val/loss and val/ema_loss to history.csv; auto: only if lr_scheduler_monitor is one of them (default:
    'auto')"""
    compute_train_metrics: bool
    """add box scores of the augmented training batches to history.csv, such as train/mAP_50_95 (default: False)"""
    compact_train_metrics: bool
    """True: history.csv has one column train/loss_*_aux per loss term, the sum over the auxiliary outputs (earlier
    decoder layers, encoder's proposals); False: a column for each of them (default: True)"""
    best_model_metric: Literal["map", "map_50", "mar", "f1"]
    """score on valid that selects the best epoch, and EMA or regular weights; for segmenters: of masks (default:
    'map')"""
    skip_best_epochs: int
    """number of epochs at the beginning that cannot be the best (default: 0)"""
    smooth_alpha: float
    """smoothing of the scores by which the best regular epoch is chosen; 0: no smoothing (default: 0.0)"""
    early_stopping: bool
    """stop when the best score no longer grows (default: False)"""
    early_stopping_patience: int
    """evaluations without growth after which training stops (default: 10)"""
    early_stopping_min_delta: float
    """smallest growth that counts (default: 0.001)"""
    early_stopping_use_ema: bool
    """watch only the EMA score, not the better score of both tracks (default: False)"""
    seed: int
    """seed of all random numbers (default: 0)"""
    amp_dtype: Literal["auto", "bf16", "fp16"] | None
    """mixed precision; auto: bf16 or fp16 on CUDA, bf16 on a CPU with bf16 instructions; None: fp32 (default:
    'auto')"""
    deterministic: bool
    """only algorithms that give equal results for equal inputs (default: True)"""
    portable: bool
    """experimental: on a CPU, arithmetic that is the same on any x86-64 processor with AVX2; slow (default: False)"""
    compile: bool | Literal["off", "default"]
    """the value `default` compiles the network's blocks for this machine; True means `default`, False means off
    (default: 'off')"""
    accelerator: Literal["auto", "cpu", "cuda", "mps"]
    """kind of device (default: 'auto')"""
    devices: int | Literal["auto"]
    """devices per node (default: 1)"""
    num_nodes: int
    """machines (default: 1)"""
    strategy: str
    """Lightning's strategy: auto, ddp, fsdp, ... (default: 'auto')"""
    resume: str | os.PathLike[str] | None
    """checkpoint.pth of the run to resume; the training ends at `epochs` (default: None)"""
    notes: Any
    """a note of your own, of any type; checkpoints keep it as args.notes (default: None)"""
    num_workers: int
    """processes that read images (default: 2)"""
    pin_memory: bool | None
    """put batches into pinned memory; None: yes if training uses CUDA (default: None)"""
    persistent_workers: bool | None
    """keep the processes that read images between epochs; None: yes (default: None)"""
    prefetch_factor: int | None
    """batches that each of these processes reads ahead; None: 2 (default: None)"""
    threads: int | None
    """threads on a CPU; their number can change the last digits; None: torch's (default: None)"""
    num_sanity_val_steps: int
    """validation batches that run before training, to find errors early; they are not scored (default: 0)"""
    checkpoint_interval: int
    """epochs between two files checkpoint_<epoch>.pth (default: 10)"""
    progress_bar: bool | Literal["tqdm", "rich"] | None
    """style of the bar on a terminal and in notebooks; a line per epoch is always printed (default: 'tqdm')"""
    mlflow: bool
    """track the run in MLflow: in mlflow.db of the current folder, or at MLFLOW_TRACKING_URI (default: False)"""
    tensorboard: bool
    """write output/tensorboard/; needs the extra tensorboard (default: False)"""
    wandb: bool
    """log to Weights & Biases (WANDB_MODE=offline: files); needs the extra wandb (default: False)"""
    clearml: bool
    """log to ClearML (CLEARML_OFFLINE_MODE=1: files); needs the extra clearml (default: False)"""
    project: str
    """the loggers' project, MLflow's experiment (default: 'rfdetr')"""
    run: str | None
    """the loggers' name of the run (default: None)"""
    run_test: bool
    """evaluate the test split after the training (default: False)"""


class SettingsKeywords(RunKeywords, total=False):
    """The keywords of a TrainConfig."""

    dataset_dir: Required[str | os.PathLike[str]]
    """folder of a COCO or YOLO dataset"""


class TrainKeywords(SettingsKeywords, total=False):
    """The keywords of `train`."""

    resolution: int | None
    """side of the square input in pixels (allowed: see docs/training.md); None: the variant's; None: as in the
    constructor"""
    freeze_encoder: bool | None
    """do not train the encoder; None: as in the constructor"""
    gradient_checkpointing: bool | None
    """recompute encoder activations: less memory, more time; None: as in the constructor"""
    device: str | int | torch.device | None
    """cpu, cuda, cuda:0 or mps; sets accelerator; None: as in the constructor"""


class EvaluateKeywords(RunKeywords, total=False):
    """The keywords of `evaluate`."""

    dataset_dir: str | os.PathLike[str] | None
    """None: the dataset of the training"""
    pictures: int
    """number of images to draw: a third of them the best, a third the middle, a third the worst (default: 9)"""
    threshold: float | None
    """pictures and confusion show detections with a score above this number; None: the threshold with the highest F1
    (default: None)"""
    resolution: int | None
    """side of the square input in pixels (allowed: see docs/training.md); None: the variant's; None: as in the
    constructor"""
    freeze_encoder: bool | None
    """do not train the encoder; None: as in the constructor"""
    gradient_checkpointing: bool | None
    """recompute encoder activations: less memory, more time; None: as in the constructor"""
    device: str | int | torch.device | None
    """cpu, cuda, cuda:0 or mps; sets accelerator; None: as in the constructor"""


class ExportKeywords(TypedDict, total=False):
    """The keywords of `export`, except output_dir and batch sizes."""

    format: Literal["onnx", "openvino", "onnx-int8"]
    """format of the file"""
    quantization: Literal["int8"] | None
    """int8: the same as format onnx-int8"""
    calibration_data: str | os.PathLike[str] | None
    """folder of images that determine the int8 ranges"""
    max_images: int
    """largest number of images from calibration_data (default: 100)"""
    shape: tuple[int, int] | list[int] | None
    """(resolution, resolution): only the resolution of the model"""
    postprocess: bool
    """False: the input is normalised images, the outputs are `dets`, `labels` and `masks`, as in upstream's files.
    True: the input is photographs of any size, the outputs are boxes in pixels, scores and class indexes (default:
    False)"""
    images: Literal["uint8", "float"]
    """input with postprocess: uint8 (B, H, W, 3), or float32 (B, 3, H, W) from 0 to 1; both RGB (default: 'uint8')"""
    max_drop: float | None
    """points of mAP (0 to 100) that a file may lose; None: 0.1 for fp32, 0.5 for int8 (default: None)"""
    calibration_images: int
    """images of train on which the ranges for int8 are measured (default: 32)"""
