"""Checks every section of params.yaml. Also lists upstream's options that are absent or have another default here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from rfdetr_core.base.errors import UserError
from rfdetr_core.base.manifest import DataConfig
from rfdetr_core.base.params import PARAMS_FILE, Config, load_params, read_section
from rfdetr_core.evaluation.config import EvaluateConfig
from rfdetr_core.export.config import ExportConfig
from rfdetr_core.ingest.config import ValidateConfig
from rfdetr_core.model.config import ModelConfig
from rfdetr_core.report.config import ReportConfig
from rfdetr_core.training.config import RuntimeConfig, TrainConfig, check_together


class GateConfig(Config):
    """The largest drop of the scores of a new model against the previous one. CI scores both on the new test split.

    A drop beyond its limit fails the gate if its whole interval is below 0. The gate is undecided if there are too few
    images for an interval. If a class is no longer found, the gate fails, or is undecided if the drop may be chance.
    docs/retraining.md has the complete rule.
    """

    max_drop: float | None = Field(
        0.5,
        ge=0,
        description="points of mAP (0 to 100) that a new model may lose in CI; null: no gate, and max_drop_class "
        "has no effect",
    )
    max_drop_class: float | None = Field(
        None,
        ge=0,
        description="points of AP that a class may lose; null: no limit. A model that no longer finds a class of the "
        "previous model never passes",
    )
    resamples: int = Field(
        200,
        gt=0,
        description="number of resamplings of the test images for the intervals; raised to 40 x the number of classes "
        "if that is more",
    )


UPSTREAM = "rfdetr 1.11.2"
_KEYPOINTS = "keypoints are not part of this project"
_FIXED = "fixed by the variant, see VARIANTS in rfdetr_core/model/config.py"

# Why an option of upstream is not here, by section of params.yaml and option.
ABSENT: Mapping[str, Mapping[str, str]] = {
    "train": {
        "aug_config": "it names transforms of other packages; use `augmentation`, whose keys are checked",
        "augmentation_backend": "torchvision is the only one, so that installed packages do not change a result",
        "callbacks": "use build_trainer of the custom training API",
        "compute_test_loss": "the evaluate stage scores the test split without computing a loss",
        "dataset_dir": "renamed to data.dir; train() takes dataset_dir",
        "dataset_file": "the format is found from the layout of the folder",
        "device": "renamed to accelerator; the constructors of the classes take device",
        "dont_save_weights": "it has no effect upstream",
        "eval_backend": "epochs are scored by hotcoco, reports by pycocotools; both give equal numbers",
        "eval_base_model": "regular and averaged weights are always evaluated, since selection compares them",
        "eval_ema_only": "deprecated upstream; regular and averaged weights are always evaluated",
        "fp16_eval": "it has no effect upstream; evaluation during training also uses amp_dtype",
        **dict.fromkeys(("keypoint_findable_loss_coef", "keypoint_flip_pairs", "keypoint_l1_loss_coef"), _KEYPOINTS),
        **dict.fromkeys(("keypoint_nll_loss_coef", "keypoint_oks_sigmas", "keypoint_visible_loss_coef"), _KEYPOINTS),
        "lr_drop": "renamed to lr_scheduler_kwargs: {lr_drop: ..}, as in upstream's current releases",
        "lr_min_factor": "renamed to lr_scheduler_kwargs: {min_factor: ..}, as in upstream's current releases",
        "output_dir": "the pipeline always writes to output/; train() takes output_dir",
        "pack_targets": "boxes and labels of a batch are small; they are copied to the device unpacked",
        "pad_targets_to": "only for XLA devices",
        "precision": "renamed to amp_dtype: auto, bf16, fp16, or null for fp32",
        "run_test": "the evaluate stage always scores the test split; train() takes run_test",
        "save_dataset_grids": "`python -m rfdetr_core preview` draws augmented batches",
        "square_resize_div_64": "images are always resized to a square, as upstream does by default",
        "start_epoch": "a training continues at the epoch of the state in `resume`",
        "sync_bn": "the network has no batch norm",
        "train_log_on_step": "loggers get the rows of history.csv, one for each epoch, so that no epoch is lost",
        "train_log_sync_dist": "logged values are always means over all ranks",
    },
    "model": {
        "amp": "renamed to train.amp_dtype",
        "backbone_lora": "the encoder is either trained or frozen (freeze_encoder)",
        "compile": "renamed to train.compile; `default` compiles each block of the network",
        "cuda_graphs": "it needs fixed shapes, but multi-scale training changes them",
        "device": "renamed to train.accelerator",
        "fused_optimizer": "AdamW is fused wherever that is safe",
        "num_classes": "taken from the dataset; the classes of the Python API take num_classes",
        "num_select": "always equal to num_queries, as in every published variant",
        "license": "it has no effect; the published weights of the variants here are under Apache 2.0",
        "model_name": "set by the class or by `variant`",
        "trust_checkpoint": "code in a model file is never run",
        **dict.fromkeys(("num_keypoints_per_class", "use_grouppose_keypoints", "keypoint_cross_attn"), _KEYPOINTS),
        **dict.fromkeys(("inter_instance_kp_attn", "grouppose_keypoint_dim_downscale"), _KEYPOINTS),
        **dict.fromkeys(("dual_projector", "dual_projector_kp_only", "postprocess_trace_alpha"), _KEYPOINTS),
        **dict.fromkeys(("encoder", "out_feature_indexes", "dec_layers", "projector_scale", "hidden_dim"), _FIXED),
        **dict.fromkeys(("patch_size", "num_windows", "sa_nheads", "ca_nheads", "dec_n_points", "two_stage"), _FIXED),
        **dict.fromkeys(("bbox_reparam", "lite_refpoint_refine", "layer_norm", "positional_encoding_size"), _FIXED),
        **dict.fromkeys(("ia_bce_loss", "segmentation_head", "mask_downsample_ratio", "num_decoder_registers"), _FIXED),
    },
    "runtime": {},
}

# Upstream's default, and the reason for another default here, by section.name.
DIFFERENT: Mapping[str, tuple[str, str]] = {
    "train.eval_max_dets": ("500", "the limit of COCO, as in the evaluate stage"),
    "train.seed": ("null", "equal inputs give equal bytes only with a seed"),
    "runtime.mlflow": ("false", "the pipeline tracks its runs; in Python, train() has the default false, as upstream"),
    "runtime.progress_bar": ("null", "it appears only on a terminal or in a notebook"),
    "runtime.project": ("null", "MLflow needs a name for the experiment"),
    "runtime.tensorboard": ("true", "it needs an extra package; MLflow has the same values"),
}

SECTIONS: dict[str, type[Config]] = {
    "data": DataConfig,
    "validate": ValidateConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "export": ExportConfig,
    "gate": GateConfig,
    "runtime": RuntimeConfig,
}


def refuse_absent(section: str, keys: Iterable[str], where: str) -> None:
    """Raise a UserError if a key is an upstream option that does not exist here; the message has the reason.

    Args:
        section: The section of params.yaml that upstream's option would belong to.
        keys: The keys to check.
        where: The beginning of the message, such as params.yaml: train.
    """
    messages = [
        f"{where}.{key} is not an option here: {ABSENT[section][key]}."
        for key in keys
        if key in ABSENT.get(section, {})
    ]
    if messages:
        raise UserError("\n".join(messages))


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section, as its stage does.

    Raises:
        UserError: a section or key is unknown, a value has the wrong type, or the settings cannot be trained together.
    """
    content = load_params(path)
    unknown = sorted(str(name) for name in content if name not in SECTIONS)
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)} is not a section. Known sections: {', '.join(SECTIONS)}.")
    for name, config in SECTIONS.items():
        _check_places(name, content, path)
        read_section(config, name, path)
    model = read_section(ModelConfig, "model", path)
    model.architecture(classes=1)
    train = read_section(TrainConfig, "train", path)
    try:
        check_together(model, train)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _check_places(section: str, content: Mapping[str, Any], path: Path) -> None:
    """Raise a UserError for a key that is an absent option of upstream, or that belongs to another section."""
    keys = content.get(section)
    strange = [key for key in keys if key not in SECTIONS[section].model_fields] if isinstance(keys, dict) else []
    refuse_absent(section, strange, f"{path}: {section}")
    for key in strange:
        for other_section, config in SECTIONS.items():
            if key in config.model_fields:
                raise UserError(f"{path}: {section}.{key} belongs to the section {other_section}. Move it there.")
