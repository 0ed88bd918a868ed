"""The whole of params.yaml, checked at once; which options of upstream's are not here or have another default."""

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
    """How far a new model may fall behind the one before, both scored on the new test split.

    A fall beyond its limit fails if all of its interval is below 0. In too few images for an interval it is undecided,
    and so is a lost class whose fall may be chance. docs/retraining.md has the whole rule.
    """

    max_drop: float | None = Field(
        0.5, ge=0, description="points of mAP (0 to 100) that a new model may lose in CI; null: no gate, not of classes"
    )
    max_drop_class: float | None = Field(
        None,
        ge=0,
        description="points of AP that any class may lose; null: any number; a class that is lost never passes",
    )
    resamples: int = Field(
        200, gt=0, description="draws of the test images behind the intervals; at least 40 for each class"
    )


UPSTREAM = "rfdetr 1.11.2"
_KEYPOINTS = "keypoints are not part of this project"
_FIXED = "the number belongs to the variant, see VARIANTS in rfdetr_core/model/config.py"

# By section of params.yaml.
ABSENT: Mapping[str, Mapping[str, str]] = {
    "train": {
        "aug_config": "it names transforms of other packages; `augmentation` has the ones that are here, checked",
        "augmentation_backend": "there is one, torchvision's, so that what is installed changes no result",
        "callbacks": "build_trainer takes them: see the custom training API",
        "compute_test_loss": "the evaluate stage scores the test split, it computes no loss",
        "dataset_dir": "it is data.dir; train() takes dataset_dir",
        "dataset_file": "the layout of the folder says which format it is",
        "device": "it is accelerator; the classes take device when they are built",
        "dont_save_weights": "it has no effect upstream",
        "eval_backend": "hotcoco scores training, pycocotools, the reference, what is reported: equal numbers",
        "eval_base_model": "both the regular and the averaged weights are always evaluated: selection compares them",
        "eval_ema_only": "it is deprecated upstream; both the regular and the averaged weights are always evaluated",
        "fp16_eval": "it has no effect upstream; amp_dtype serves for evaluation during training, too",
        **dict.fromkeys(("keypoint_findable_loss_coef", "keypoint_flip_pairs", "keypoint_l1_loss_coef"), _KEYPOINTS),
        **dict.fromkeys(("keypoint_nll_loss_coef", "keypoint_oks_sigmas", "keypoint_visible_loss_coef"), _KEYPOINTS),
        "lr_drop": "it is lr_scheduler_kwargs: {lr_drop: ..}, as in upstream's current releases",
        "lr_min_factor": "it is lr_scheduler_kwargs: {min_factor: ..}, as in upstream's current releases",
        "output_dir": "the pipeline's is output/; train() takes output_dir",
        "pack_targets": "boxes and labels of a batch are small and go to the device as they are",
        "pad_targets_to": "it serves XLA devices alone",
        "precision": "it is amp_dtype: auto, bf16, fp16, or null for fp32",
        "run_test": "the evaluate stage always scores the test split; train() takes run_test",
        "save_dataset_grids": "`python -m rfdetr_core preview` draws augmented batches",
        "square_resize_div_64": "images are always resized to a square, as upstream does by default",
        "start_epoch": "a training goes on from `resume` at the epoch of that state",
        "sync_bn": "the network has no batch norm",
        "train_log_on_step": "loggers are fed from history.csv, an epoch a row, so that none is lost",
        "train_log_sync_dist": "values are always means over all ranks",
    },
    "model": {
        "amp": "it is train.amp_dtype",
        "backbone_lora": "the encoder is trained whole, or frozen by freeze_encoder",
        "compile": "it is train.compile: default, which compiles the blocks of the network, each for itself",
        "cuda_graphs": "it fixes every shape, which multi-scale training changes",
        "device": "it is train.accelerator",
        "fused_optimizer": "AdamW is fused wherever that is safe",
        "num_classes": "the dataset says it; the classes of the Python API take num_classes",
        "num_select": "it is num_queries, as in every published variant",
        "license": "it decides nothing; the published weights that are here are under Apache 2.0",
        "model_name": "the class, or variant, says it",
        "trust_checkpoint": "no code of a file is ever run, so there is nothing to trust",
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

# section.name: upstream's default, and why ours is another.
DIFFERENT: Mapping[str, tuple[str, str]] = {
    "train.eval_max_dets": ("500", "COCO's own limit, which the evaluate stage has, too"),
    "train.seed": ("null", "equal inputs shall give equal bytes, so a seed is always set"),
    "runtime.mlflow": ("false", "the pipeline tracks its runs; train() does not unless asked"),
    "runtime.progress_bar": ("null", "it is drawn only where someone looks at it"),
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
    """Raise a UserError that names the options of upstream's among the keys that are not here, and says why."""
    messages = [f"{where}.{key} is not here: {ABSENT[section][key]}." for key in keys if key in ABSENT.get(section, {})]
    if messages:
        raise UserError("\n".join(messages))


def check_params(path: Path = PARAMS_FILE) -> None:
    """Read every section as its stage will.

    Raises:
        UserError: an unknown section or key, a wrong type, or a combination that cannot be trained.
    """
    content = load_params(path)
    unknown = sorted(str(name) for name in content if name not in SECTIONS)
    if unknown:
        raise UserError(f"{path}: {', '.join(unknown)} is no section. Known sections: {', '.join(SECTIONS)}.")
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
    """Say why an option of upstream's is not here, or which section has it."""
    keys = content.get(section)
    strange = [key for key in keys if key not in SECTIONS[section].model_fields] if isinstance(keys, dict) else []
    refuse_absent(section, strange, f"{path}: {section}")
    for key in strange:
        for other_section, config in SECTIONS.items():
            if key in config.model_fields:
                raise UserError(f"{path}: {section}.{key} is an option of the section {other_section}: write it there.")
