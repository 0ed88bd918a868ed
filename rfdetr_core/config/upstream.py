"""What each documented name of upstream's package is here: the same name, another one, or not here and why."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """Names of upstream that have one answer.

    owners: the modules of upstream that have the names, or class RFDETR, or a call such as RFDETR.predict(), whose
    arguments they are. owners and names are separated by spaces. here: the dotted path of what does the same, with {}
    for the name; empty for what is not here. note: the difference; of what is not here, the reason and what to use.
    """

    owners: str
    names: str
    here: str = ""
    note: str = ""

    def path(self, name: str) -> str:
        """The dotted path of what the name is here; empty if it is not here."""
        return self.here.replace("{}", name)


KEYPOINTS = "keypoints are not part of this project; it has detection and segmentation"
ONE_AUGMENTATION = "the one back end of augmentation is torchvision"
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
_HISTORY = "it reads history.csv, or the one in the folder of a run"
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
        note="it comes from a package with another licence; use RFDETRLarge, the largest detection variant here",
    ),
    Row("rfdetr", "from_checkpoint", "rfdetr_core.{}"),
    Row("from_checkpoint()", "path", "rfdetr_core.from_checkpoint"),
    Row(
        "RFDETR() from_checkpoint()",
        "trust_checkpoint",
        note="no code of a file is ever run, so there is nothing to trust; remove it",
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
        note="such files need no conversion; give the old file to from_checkpoint, or to a class as pretrain_weights",
    ),
    Row(
        "rfdetr.training rfdetr.training.cli",
        "RFDETRCli",
        note="dvc repro trains from params.yaml; RFDETR.train trains from Python",
    ),
    Row("rfdetr.cli rfdetr.training.cli", "main", "rfdetr_core.cli.main", "its commands are others"),
    Row("rfdetr.config", "TrainConfig SegmentationTrainConfig ModelConfig", "rfdetr_core.config.{}"),
    Row("rfdetr.config", _CONFIGS, "rfdetr_core.config.{}"),
    Row("rfdetr.config", "KeypointTrainConfig RFDETRKeypointPreviewConfig", note=KEYPOINTS),
    Row("rfdetr.config", "MultiScale", note='give multi_scale the text "per-batch", "per-sample" or "off"'),
    Row("rfdetr.config", "AmpDtype", note='give amp_dtype the text "auto", "bf16" or "fp16", or None'),
    Row("rfdetr.config", "AugmentationBackend", note=f"{ONE_AUGMENTATION}; remove augmentation_backend"),
    Row("rfdetr.config", "CocoEvalBackend", note="hotcoco scores training, pycocotools scores what is reported"),
    Row("rfdetr.config", "DatasetFile", note="the layout of the folder says which format it is; remove dataset_file"),
    Row("rfdetr.assets.coco_classes", "COCO_CLASSES COCO_CLASS_NAMES", "rfdetr_core.{}"),
    Row(_WEIGHTS, "ModelWeights", f"{_PUBLISHED}.PUBLISHED", "a mapping from file name to address and MD5"),
    Row(_WEIGHTS, "ModelWeightAsset", f"{_PUBLISHED}.Published"),
    Row(_WEIGHTS, "ModelWeightsBase", note="no other package adds weights"),
    Row(_WEIGHTS, "get_model_cache_dir", f"{_PUBLISHED}.cache_folder"),
    Row(
        "rfdetr.assets.model_weights",
        "download_pretrain_weights validate_pretrain_weights",
        f"{_PUBLISHED}.resolve_weights",
        "it downloads a missing file and compares the MD5",
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
    Row("RFDETR", "get_model", note="the constructor builds the network; model is the torch module"),
    Row("RFDETR", "is_optimized_inplace", "rfdetr_core.RFDETR.{}", "always False: predict uses a copy of the model"),
    Row("RFDETR", "deploy_to_roboflow", "rfdetr_core.RFDETR.export_for_roboflow", "uploading needs an account"),
    Row(
        "RFDETR.deploy_to_roboflow()",
        "workspace project_id version api_key size",
        note="it belongs to Roboflow's own package, which uploads what export_for_roboflow writes",
    ),
    Row("RFDETR.predict()", "images threshold shape include_source_image", "rfdetr_core.RFDETR.predict"),
    Row("RFDETR.predict()", "patch_size", "rfdetr_core.RFDETR.predict", "only the model's own number is taken"),
    Row("RFDETR.evaluate()", "split", "rfdetr_core.RFDETR.evaluate"),
    Row("RFDETR.inference()", "compile batch_size dtype", "rfdetr_core.RFDETR.inference"),
    Row("RFDETR.inference()", "inplace", "rfdetr_core.RFDETR.inference", "True is refused: the model is kept"),
    Row("RFDETR.inference()", "compile_backend", "rfdetr_core.RFDETR.inference", "it is torch.compile, on CUDA"),
    Row(
        "RFDETR.export()",
        "output_dir batch_size dynamic_batch format quantization calibration_data max_images shape",
        "rfdetr_core.RFDETR.export",
    ),
)
