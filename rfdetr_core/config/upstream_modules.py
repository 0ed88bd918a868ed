"""The equivalents of upstream's internal names, which its documentation does not show, by module."""

from __future__ import annotations

from rfdetr_core.config.upstream import BARS, CALLBACKS, KEYPOINTS, NO_MEMORY, ONE_AUGMENTATION, Row

_WEBDATASET = "a dataset is a folder in COCO or YOLO format"
_LIGHTNING = "Lightning does this; torch.distributed has such functions"
_BUILT = "build_detector builds the network from an Architecture"

INNER = (
    Row("rfdetr.cli.webdataset", "main", note=_WEBDATASET),
    Row(
        "rfdetr.datasets",
        "build_dataset build_roboflow detect_roboflow_format get_coco_api_from_dataset",
        "rfdetr_core.RFDETRDataModule",
        "the stages validate and convert find the format and write COCO files",
    ),
    Row(
        "rfdetr.datasets.coco",
        "CocoDetection ConvertCoco build_coco build_roboflow_from_coco make_coco_transforms "
        "make_coco_transforms_square_div_64 draft_size_for_transforms scale_coco_annotation",
        "rfdetr_core.data.dataset.DetectionDataset",
    ),
    Row("rfdetr.datasets.coco", "compute_multi_scale_scales", "rfdetr_core.data.batching.multi_scale_sizes"),
    Row("rfdetr.datasets.coco", "convert_coco_poly_to_mask", "rfdetr_core.data.dataset.decode_masks"),
    Row(
        "rfdetr.datasets.coco",
        "CrowdRegion annotated_category_ids crowd_regions_from_coco filter_parent_categories is_valid_coco_dataset",
        "rfdetr_core.ingest.formats.coco",
        "the stage validate lists every finding of a dataset",
    ),
    Row(
        "rfdetr.datasets.yolo",
        "ConvertYolo REQUIRED_YOLO_YAML_FILES YOLO_IMAGE_EXTENSIONS YoloDetection YoloSplitUnavailableError "
        "build_roboflow_from_yolo find_yolo_data_file find_yolo_train_images is_valid_yolo_dataset",
        "rfdetr_core.ingest.formats.yolo",
        "the stage validate lists every finding of a dataset",
    ),
    Row(
        "rfdetr.datasets.io_utils",
        "decode_image decode_image_bytes decode_pil_image decode_pil_image_bytes",
        "rfdetr_core.base.images.decode",
    ),
    Row(
        "rfdetr.datasets.kornia_transforms",
        "build_kornia_pipeline build_normalize collate_boxes collate_masks is_gpu_postprocess "
        "require_gpu_backend_ready resolve_augmentation_backend resolve_backend_for_build unpack_boxes",
        note=ONE_AUGMENTATION,
    ),
    Row("rfdetr.datasets.kornia_transforms", "IMAGENET_MEAN IMAGENET_STD", "rfdetr_core.data.preprocess.{}"),
    Row("rfdetr.datasets.transforms", "Normalize", "rfdetr_core.data.preprocess.normalise"),
    Row(
        "rfdetr.datasets.transforms",
        "ALBUMENTATIONS_CONTAINERS AlbumentationsWrapper GEOMETRIC_TRANSFORMS",
        note=ONE_AUGMENTATION,
    ),
    Row(
        "rfdetr.datasets.o365", "build_o365 build_o365_raw", note="Objects365 in COCO's format is read like any dataset"
    ),
    Row(
        "rfdetr.datasets.save_grids",
        "DatasetGridSaver",
        "rfdetr_core.config.preview.preview",
        "the command preview draws augmented batches",
    ),
    Row(
        "rfdetr.datasets.webdataset.index",
        "DEFAULT_MAX_SHARD_BYTES IMAGE_EXTENSIONS INDEX_VERSION ShardIndex WebDatasetSplitUnavailableError "
        "category_names_by_label index_name read_shard_index resolve_within",
        note=_WEBDATASET,
    ),
    Row(
        "rfdetr.datasets.webdataset.load",
        "DEFAULT_SHARD_SHUFFLE DEFAULT_SHUFFLE_BUFFER SHARD_SKEW_RAISE_FRACTION SHARD_SKEW_WARN_FRACTION "
        "WebDatasetDetection build_webdataset build_webdataset_loader plan_samples_per_worker",
        note=_WEBDATASET,
    ),
    Row("rfdetr.datasets.webdataset.pack", "pack_coco_to_shards tar_member_bytes", note=_WEBDATASET),
    Row(
        "rfdetr.evaluation rfdetr.evaluation.keypoint_oks",
        "DEFAULT_KEYPOINT_MAX_DETS MetricKeypointOKS OKSKey",
        note=KEYPOINTS,
    ),
    Row(
        "rfdetr.evaluation.coco_eval",
        "CocoEvaluator patched_pycocotools_summarize",
        "rfdetr_core.metrics.coco.score",
    ),
    Row("rfdetr.evaluation.f1_sweep", "sweep_confidence_thresholds", "rfdetr_core.evaluation.operating.best_f1"),
    Row(
        "rfdetr.evaluation.matching",
        "build_matching_data distributed_merge_matching_data init_matching_accumulator merge_matching_data",
        "rfdetr_core.metrics.matching.evaluate",
    ),
    Row("rfdetr.evaluation.matching", "resize_masks_nearest", "rfdetr_core.model.postprocess.resize_masks"),
    Row(
        "rfdetr.export.base",
        "ExportConfig Exporter SHARED_FIELDS reject_unsupported_dynamic_batch shared_settings",
        "rfdetr_core.export.run.export_files",
    ),
    Row(
        "rfdetr.export.registry",
        "ALIASES ExporterEntry REGISTRY normalize_format require_entry resolve_exporter",
        "rfdetr_core.export.run.export_files",
    ),
    Row(
        "rfdetr.export.prepare",
        "BATCH_AXIS ExportGraph ExportModelConfig make_infer_image prepare_export_graph resolve_output_names",
        "rfdetr_core.export.graph",
    ),
    Row(
        "rfdetr.export.benchmark",
        "box_cxcywh_to_xyxy get_image_list infer_engine infer_onnx infer_transforms load_image main post_process",
        "rfdetr_core.inference.benchmark.benchmark",
        "the command benchmark",
    ),
    Row(
        "rfdetr.export.inference",
        "OpenVINOInference",
        "rfdetr_core.from_checkpoint",
        "it also reads .xml and .onnx files",
    ),
    Row("rfdetr.models rfdetr.models.math", "MLP", "rfdetr_core.model.layers.MLP"),
    Row("rfdetr.models", "BuilderArgs MODEL_DEFAULTS ModelDefaults", "rfdetr_core.model.config.Architecture"),
    Row("rfdetr.models rfdetr.models.postprocess", "PostProcess", "rfdetr_core.model.postprocess.postprocess"),
    Row(
        "rfdetr.models rfdetr.models.criterion",
        "SetCriterion",
        "rfdetr_core.loss.criterion.Criterion",
    ),
    Row("rfdetr.models rfdetr.models.lwdetr", "build_criterion_from_config", "rfdetr_core.loss.criterion.Criterion"),
    Row(
        "rfdetr.models rfdetr.models.lwdetr",
        "build_model build_model_from_config",
        "rfdetr_core.model.detector.build_detector",
    ),
    Row("rfdetr.models rfdetr.models.weights", "load_pretrain_weights", "rfdetr_core.checkpoint.loading.load_weights"),
    Row("rfdetr.models rfdetr.models.weights", "apply_lora", note="the encoder is either trained or frozen"),
    Row("rfdetr.models.weights", "interpolate_position_embeddings", "rfdetr_core.model.vit.resize_positions"),
    Row("rfdetr.models.lwdetr", "LWDETR", "rfdetr_core.model.detector.Detector"),
    Row(
        "rfdetr.models.lwdetr",
        "build_criterion_and_postprocessors",
        note="use Criterion and postprocess directly",
    ),
    Row("rfdetr.models.backbone", "Joiner build_backbone", note=_BUILT),
    Row("rfdetr.models.backbone.backbone", "Backbone", note=_BUILT),
    Row("rfdetr.models.backbone.base", "BackboneBase", note=_BUILT),
    Row(
        "rfdetr.models.backbone.dinov2",
        "DinoV2 compute_window_block_indexes get_config",
        "rfdetr_core.model.vit.VisionTransformer",
    ),
    Row(
        "rfdetr.models.backbone.dinov2_with_windowed_attn",
        "WindowedDinov2WithRegistersBackbone WindowedDinov2WithRegistersForImageClassification "
        "WindowedDinov2WithRegistersModel WindowedDinov2WithRegistersPreTrainedModel",
        "rfdetr_core.model.vit.VisionTransformer",
    ),
    Row(
        "rfdetr.models.backbone.projector",
        "Bottleneck C2f ConvX LayerNorm MultiScaleProjector get_activation get_norm",
        "rfdetr_core.model.projector.Projector",
    ),
    Row(
        "rfdetr.models.criterion",
        "dice_loss position_supervised_loss sigmoid_ce_loss sigmoid_focal_loss sigmoid_varifocal_loss",
        "rfdetr_core.loss.formulas",
        "the terms of the loss are in rfdetr_core.loss.terms",
    ),
    Row("rfdetr.models.heads rfdetr.models.heads.keypoints", "ConditionalQueryInitializer", note=KEYPOINTS),
    Row(
        "rfdetr.models.heads.keypoints",
        "compute_keypoint_matching_cost compute_l1_keypoint_loss",
        note=KEYPOINTS,
    ),
    Row(
        "rfdetr.models.heads rfdetr.models.heads.segmentation",
        "DepthwiseConvBlock MLPBlock SegmentationHead",
        "rfdetr_core.model.segmentation",
    ),
    Row(
        "rfdetr.models.heads.segmentation",
        "calculate_uncertainty get_uncertain_point_coords_with_randomness point_sample",
        "rfdetr_core.loss.formulas.uncertain_points",
    ),
    Row("rfdetr.models.matcher", "HungarianMatcher build_matcher", "rfdetr_core.loss.matcher.match"),
    Row(
        "rfdetr.models.math",
        "accuracy interpolate inverse_sigmoid",
        note="torch.nn.functional and torch.special have similar functions",
    ),
    Row(
        "rfdetr.models.ops.functions rfdetr.models.ops.functions.ms_deform_attn_func",
        "ms_deform_attn_core_pytorch",
        "rfdetr_core.model.deformable.sample",
    ),
    Row(
        "rfdetr.models.ops.modules rfdetr.models.ops.modules.ms_deform_attn",
        "MSDeformAttn",
        "rfdetr_core.model.deformable.DeformableAttention",
    ),
    Row(
        "rfdetr.models.position_encoding",
        "PositionEmbeddingLearned PositionEmbeddingSine build_position_encoding",
        note="the published models do not encode the positions of feature maps",
    ),
    Row(
        "rfdetr.models.transformer",
        "Transformer TransformerDecoder TransformerDecoderLayer build_transformer",
        "rfdetr_core.model.decoder.Decoder",
    ),
    Row("rfdetr.models.transformer", "gen_encoder_output_proposals", "rfdetr_core.model.proposals.make_anchors"),
    Row("rfdetr.models.transformer", "gen_sineembed_for_position", "rfdetr_core.model.decoder.encode_boxes"),
    Row(
        "rfdetr.training.auto_batch",
        "AutoBatchResult probe_max_micro_batch recommend_grad_accum_steps resolve_auto_batch_config",
        "rfdetr_core.training.trainer.with_batch_size",
        "use batch_size='auto'",
    ),
    Row("rfdetr.training.callbacks.best_model", "BestModelCallback RFDETREarlyStopping", CALLBACKS),
    Row("rfdetr.training.callbacks.coco_eval", "COCOEvalCallback", CALLBACKS),
    Row("rfdetr.training.callbacks.drop_schedule", "DropPathCallback", CALLBACKS),
    Row("rfdetr.training.callbacks.ema", "RFDETREMACallback", CALLBACKS),
    Row(
        "rfdetr.training.callbacks.gpu_memory_progress_bar",
        BARS,
        note=NO_MEMORY,
    ),
    Row("rfdetr.training.coco_map", "OnePassCocoMeanAveragePrecision", "rfdetr_core.metrics.quick.quick_score"),
    Row("rfdetr.training.cuda_graph_step", "CudaGraphTrainingRunner", note="compile='default' makes steps faster"),
    Row("rfdetr.training.drop_schedule", "drop_scheduler", note="train() takes a constant drop_path"),
    Row("rfdetr.training.model_ema", "BestMetricHolder BestMetricSingle", "rfdetr_core.training.outputs.Best"),
    Row("rfdetr.training.model_ema", "ModelEma", "rfdetr_core.training.callbacks.WeightAverage"),
    Row("rfdetr.training.module_data", "RFDETRDataModule", "rfdetr_core.{}"),
    Row("rfdetr.training.module_data", "GradAccumAlignedDataset", "rfdetr_core.data.batching.EpochSampler"),
    Row("rfdetr.training.module_model", "RFDETRModelModule", "rfdetr_core.{}"),
    Row(
        "rfdetr.training.param_groups",
        "get_param_dict get_vit_lr_decay_rate get_vit_weight_decay_rate regroup_unmerged_optimizer_state "
        "regroup_unmerged_scheduler_kwargs",
        "rfdetr_core.training.optimization.parameter_groups",
    ),
    Row("rfdetr.training.trainer", "build_trainer", "rfdetr_core.{}"),
    Row("rfdetr.utilities", "box_ops", "rfdetr_core.ops.boxes"),
    Row("rfdetr.utilities.box_ops", "box_cxcywh_to_xyxy", "rfdetr_core.ops.boxes.cxcywh_to_xyxy"),
    Row("rfdetr.utilities.box_ops", "box_xyxy_to_cxcywh", "rfdetr_core.ops.boxes.xyxy_to_cxcywh"),
    Row(
        "rfdetr.utilities.box_ops",
        "box_iou elementwise_box_iou elementwise_generalized_box_iou generalized_box_iou",
        "rfdetr_core.ops.boxes.overlap",
    ),
    Row(
        "rfdetr.utilities.box_ops",
        "batch_dice_loss batch_sigmoid_ce_loss pairwise_box_l1_cost",
        "rfdetr_core.loss.formulas.pairwise_losses",
    ),
    Row("rfdetr.utilities.box_ops", "masks_to_boxes", note="torchvision.ops has it"),
    Row("rfdetr.utilities.compiler", "is_compiling", note="torch.compiler has it"),
    Row(
        "rfdetr.utilities.decorators",
        "TargetMode deprecated void",
        note="not needed, because this project has no deprecated names",
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.distributed",
        "all_gather get_rank get_world_size is_dist_avail_and_initialized is_main_process reduce_dict save_on_master",
        note=_LIGHTNING,
    ),
    Row(
        "rfdetr.utilities.files",
        "DEFAULT_DOWNLOAD_TIMEOUT_SECONDS",
        "rfdetr_core.checkpoint.download",
        "the time limits of a download are fixed",
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.keypoints",
        "precision_cholesky_to_pixel_covariance schemas_semantically_equal",
        note=KEYPOINTS,
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.logger",
        "get_logger",
        note="messages are printed; use logging.getLogger of Python",
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.package",
        "get_sha get_version",
        note="each checkpoint contains its training record",
    ),
    Row("rfdetr.utilities.package", "is_installed", note="use importlib.util.find_spec of Python"),
    Row("rfdetr.utilities rfdetr.utilities.reproducibility", "seed_all", "pytorch_lightning.seed_everything"),
    Row(
        "rfdetr.utilities rfdetr.utilities.state_dict",
        "strip_checkpoint",
        "rfdetr_core.selection.strip.strip",
        "train() already strips the best checkpoint",
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.state_dict",
        "clean_state_dict",
        "rfdetr_core.checkpoint.files.read_checkpoint",
    ),
    Row(
        "rfdetr.utilities.state_dict",
        "remap_projector_to_cross_attn validate_checkpoint_compatibility",
        "rfdetr_core.checkpoint.loading.load_weights",
    ),
    Row(
        "rfdetr.utilities rfdetr.utilities.tensors",
        "NestedTensor PackedTargets collate_fn make_collate_fn nested_tensor_from_tensor_list pack_targets",
        "rfdetr_core.data.batching",
        "a Batch has images of one size and a list of targets",
    ),
    Row("rfdetr.utilities.tensors", "pad_targets_to_fixed_count", note="only for XLA devices"),
)
