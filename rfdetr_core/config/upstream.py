"""The equivalent of each documented name of upstream's package, or the reason why there is none."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """A row of the table for users of upstream: names of upstream with the same equivalent and the same note.

    owners: where upstream has the names, separated by spaces: modules, class RFDETR, or a call such as
        RFDETR.predict() for names of arguments.
    names: the names, separated by spaces.
    equivalent: the dotted path of the equivalent, with {} for the name; empty if there is none.
    note: the difference; if there is no equivalent, the reason and what to use instead.
    """

    owners: str
    names: str
    equivalent: str = ""
    note: str = ""

    def path(self, name: str) -> str:
        """The dotted path of the equivalent of a name; empty if there is none."""
        return self.equivalent.replace("{}", name)


KEYPOINTS = "this project has detection and segmentation, but no keypoints"
ONE_AUGMENTATION = "torchvision is the only back end of augmentation"
NO_MEMORY = "the progress bar does not show memory; DeviceStatsMonitor of pytorch_lightning.callbacks logs it"
BARS = "GPUMemoryRichProgressBar GPUMemoryTQDMProgressBar"
CALLBACKS = "rfdetr_core.training.callbacks.{}"
_CALLBACK_NAMES = "BestModelCallback COCOEvalCallback DropPathCallback RFDETREMACallback RFDETREarlyStopping"
_VARIANTS = (
    "RFDETRNano RFDETRSmall RFDETRMedium RFDETRLarge RFDETRBase RFDETRLargeDeprecated RFDETRSegNano RFDETRSegSmall "
    "RFDETRSegMedium RFDETRSegLarge RFDETRSegXLarge RFDETRSeg2XLarge RFDETRSegPreview"
)
_CONFIGS = " ".join(f"{name}Config" for name in _VARIANTS.split())
_MODULES_OF_CLASSES = "rfdetr rfdetr.detr rfdetr.variants"
_HISTORY = "it takes a history.csv, or a run folder with one"
_WEIGHTS = "rfdetr.assets rfdetr.assets.model_weights"
_PUBLISHED = "rfdetr_core.checkpoint.published"

API = (
    Row("rfdetr rfdetr.detr", "RFDETR", "rfdetr_core.{}"),
    Row(_MODULES_OF_CLASSES, _VARIANTS, "rfdetr_core.{}"),
    Row("rfdetr.detr rfdetr.variants", "RFDETRSeg", note="every segmentation variant is a subclass of RFDETR"),
    Row(_MODULES_OF_CLASSES, "RFDETRKeypointPreview", note=KEYPOINTS),
    Row(
        "rfdetr",
        "RFDETRXLarge RFDETR2XLarge",
        note="it comes from a package with another licence; RFDETRLarge is the largest detection variant here",
    ),
    Row("rfdetr", "from_checkpoint", "rfdetr_core.{}"),
    Row("from_checkpoint()", "path", "rfdetr_core.from_checkpoint"),
    Row(
        "RFDETR() from_checkpoint()",
        "trust_checkpoint",
        note="code in a model file is never run; remove the argument",
    ),
    Row(
        "rfdetr rfdetr.detr rfdetr.inference",
        "ModelContext",
        note="model is the torch module itself; use class_names, architecture and model_config of the class",
    ),
    Row("rfdetr rfdetr.training", "RFDETRModelModule RFDETRDataModule build_trainer", "rfdetr_core.{}"),
    Row("rfdetr.training rfdetr.training.callbacks", _CALLBACK_NAMES, CALLBACKS),
    Row("rfdetr.training rfdetr.training.callbacks", BARS, note=NO_MEMORY),
    Row("rfdetr.training", "seed_everything", "pytorch_lightning.seed_everything", "train() has the argument seed"),
    Row(
        "rfdetr.training rfdetr.training.checkpoint",
        "convert_legacy_checkpoint",
        note="old files need no conversion; load them with from_checkpoint, or as pretrain_weights of a class",
    ),
    Row(
        "rfdetr.training rfdetr.training.cli",
        "RFDETRCli",
        note="dvc repro trains from params.yaml; RFDETR.train trains from Python",
    ),
    Row("rfdetr.cli rfdetr.training.cli", "main", "rfdetr_core.cli.main", "its commands are different"),
    Row("rfdetr.config", "TrainConfig SegmentationTrainConfig ModelConfig", "rfdetr_core.config.{}"),
    Row("rfdetr.config", _CONFIGS, "rfdetr_core.config.{}"),
    Row("rfdetr.config", "KeypointTrainConfig RFDETRKeypointPreviewConfig", note=KEYPOINTS),
    Row("rfdetr.config", "MultiScale", note='give multi_scale the text "per-batch", "per-sample" or "off"'),
    Row("rfdetr.config", "AmpDtype", note='give amp_dtype the text "auto", "bf16" or "fp16", or None'),
    Row("rfdetr.config", "AugmentationBackend", note=f"{ONE_AUGMENTATION}; remove augmentation_backend"),
    Row("rfdetr.config", "CocoEvalBackend", note="hotcoco scores the epochs of a training, pycocotools scores reports"),
    Row("rfdetr.config", "DatasetFile", note="the format is found from the layout of the folder; remove dataset_file"),
    Row("rfdetr.assets.coco_classes", "COCO_CLASSES COCO_CLASS_NAMES", "rfdetr_core.{}"),
    Row(_WEIGHTS, "ModelWeights", f"{_PUBLISHED}.PUBLISHED", "a mapping from file name to address and MD5"),
    Row(_WEIGHTS, "ModelWeightAsset", f"{_PUBLISHED}.Published"),
    Row(_WEIGHTS, "ModelWeightsBase", note="no other package adds weights"),
    Row(_WEIGHTS, "get_model_cache_dir", f"{_PUBLISHED}.cache_folder"),
    Row(
        "rfdetr.assets.model_weights",
        "download_pretrain_weights validate_pretrain_weights",
        f"{_PUBLISHED}.resolve_weights",
        "it downloads a missing file and compares its MD5",
    ),
    Row("rfdetr.visualize rfdetr.visualize.training", "plot_metrics", "rfdetr_core.{}", _HISTORY),
    Row(
        "rfdetr.visualize rfdetr.visualize.training",
        "plot_loss_metrics plot_map_metrics",
        "rfdetr_core.report.training.{}",
        _HISTORY,
    ),
    Row(
        "rfdetr.visualize rfdetr.visualize.data",
        "save_gt_predictions_visualization",
        note="model.evaluate(pictures=20) draws labels beside detections",
    ),
    Row(
        "rfdetr.datasets.aug_config rfdetr.datasets.aug_configs",
        "AUG_AERIAL AUG_AGGRESSIVE AUG_CONFIG AUG_CONSERVATIVE AUG_INDUSTRIAL",
        note='give train() the argument augmentation, such as {"vertical_flip": 0.5, "brightness": 0.2}',
    ),
    Row(
        "RFDETR",
        "train evaluate predict export inference remove_optimized_model from_checkpoint get_model_config "
        "get_train_config maybe_download_pretrain_weights export_for_roboflow class_names model_config callbacks means "
        "stds size",
        "rfdetr_core.RFDETR.{}",
    ),
    Row("RFDETR", "model", "rfdetr_core.RFDETR.{}", "the torch module; in upstream it is model.model"),
    Row("RFDETR", "get_model", note="the constructor builds the network; the torch module is `model`"),
    Row("RFDETR", "is_optimized_inplace", "rfdetr_core.RFDETR.{}", "always False: predict uses a copy of the model"),
    Row("RFDETR", "deploy_to_roboflow", "rfdetr_core.RFDETR.export_for_roboflow", "uploading needs an account"),
    Row(
        "RFDETR.deploy_to_roboflow()",
        "workspace project_id version api_key size",
        note="Roboflow's package takes it; it uploads the files of export_for_roboflow",
    ),
    Row("RFDETR.predict()", "images threshold shape include_source_image", "rfdetr_core.RFDETR.predict"),
    Row("RFDETR.predict()", "patch_size", "rfdetr_core.RFDETR.predict", "it must equal the patch size of the model"),
    Row("RFDETR.evaluate()", "split", "rfdetr_core.RFDETR.evaluate"),
    Row("RFDETR.inference()", "compile batch_size dtype", "rfdetr_core.RFDETR.inference"),
    Row(
        "RFDETR.inference()", "inplace", "rfdetr_core.RFDETR.inference", "only False: predict uses a copy of the model"
    ),
    Row("RFDETR.inference()", "compile_backend", "rfdetr_core.RFDETR.inference", "only torch.compile, on CUDA"),
    Row(
        "RFDETR.export()",
        "output_dir batch_size dynamic_batch format quantization calibration_data max_images shape",
        "rfdetr_core.RFDETR.export",
    ),
)
