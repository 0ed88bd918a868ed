"""The table that translates between this project's parameter names and upstream's, in both directions.

In the table `#` stands for a number, `*` for weight or bias.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

_VIT = "backbone.0.encoder.encoder"
_BLOCK = f"{_VIT}.encoder.layer.#"
_TABLE = {
    "encoder.cls_token": f"{_VIT}.embeddings.cls_token",
    "encoder.mask_token": f"{_VIT}.embeddings.mask_token",
    "encoder.position_embeddings": f"{_VIT}.embeddings.position_embeddings",
    "encoder.patch_projection.*": f"{_VIT}.embeddings.patch_embeddings.projection.*",
    "encoder.blocks.#.norm1.*": f"{_BLOCK}.norm1.*",
    "encoder.blocks.#.attention.query.*": f"{_BLOCK}.attention.attention.query.*",
    "encoder.blocks.#.attention.key.*": f"{_BLOCK}.attention.attention.key.*",
    "encoder.blocks.#.attention.value.*": f"{_BLOCK}.attention.attention.value.*",
    "encoder.blocks.#.attention.output.*": f"{_BLOCK}.attention.output.dense.*",
    "encoder.blocks.#.scale1": f"{_BLOCK}.layer_scale1.lambda1",
    "encoder.blocks.#.norm2.*": f"{_BLOCK}.norm2.*",
    "encoder.blocks.#.expand.*": f"{_BLOCK}.mlp.fc1.*",
    "encoder.blocks.#.contract.*": f"{_BLOCK}.mlp.fc2.*",
    "encoder.blocks.#.scale2": f"{_BLOCK}.layer_scale2.lambda1",
    "encoder.norm.*": f"{_VIT}.layernorm.*",
    "projector.levels.#.resamplers.#.*": "backbone.0.projector.stages_sampling.#.#.0.*",
    "projector.levels.#.resamplers.#.convolution.*": "backbone.0.projector.stages_sampling.#.#.0.conv.*",
    "projector.levels.#.resamplers.#.norm.*": "backbone.0.projector.stages_sampling.#.#.0.bn.*",
    "projector.levels.#.fuse.reduce.convolution.*": "backbone.0.projector.stages.#.0.cv1.conv.*",
    "projector.levels.#.fuse.reduce.norm.*": "backbone.0.projector.stages.#.0.cv1.bn.*",
    "projector.levels.#.fuse.bottlenecks.#.0.convolution.*": "backbone.0.projector.stages.#.0.m.#.cv1.conv.*",
    "projector.levels.#.fuse.bottlenecks.#.0.norm.*": "backbone.0.projector.stages.#.0.m.#.cv1.bn.*",
    "projector.levels.#.fuse.bottlenecks.#.1.convolution.*": "backbone.0.projector.stages.#.0.m.#.cv2.conv.*",
    "projector.levels.#.fuse.bottlenecks.#.1.norm.*": "backbone.0.projector.stages.#.0.m.#.cv2.bn.*",
    "projector.levels.#.fuse.merge.convolution.*": "backbone.0.projector.stages.#.0.cv2.conv.*",
    "projector.levels.#.fuse.merge.norm.*": "backbone.0.projector.stages.#.0.cv2.bn.*",
    "projector.levels.#.norm.*": "backbone.0.projector.stages.#.1.*",
    "proposer.groups.#.project.*": "transformer.enc_output.#.*",
    "proposer.groups.#.norm.*": "transformer.enc_output_norm.#.*",
    "proposer.groups.#.class_head.*": "transformer.enc_out_class_embed.#.*",
    "proposer.groups.#.box_head.layers.#.*": "transformer.enc_out_bbox_embed.#.layers.#.*",
    "decoder.layers.#.self_attention.query_key_value.weight": "transformer.decoder.layers.#.self_attn.in_proj_weight",
    "decoder.layers.#.self_attention.query_key_value.bias": "transformer.decoder.layers.#.self_attn.in_proj_bias",
    "decoder.layers.#.self_attention.output.*": "transformer.decoder.layers.#.self_attn.out_proj.*",
    "decoder.layers.#.norm1.*": "transformer.decoder.layers.#.norm1.*",
    "decoder.layers.#.cross_attention.offsets.*": "transformer.decoder.layers.#.cross_attn.sampling_offsets.*",
    "decoder.layers.#.cross_attention.weights.*": "transformer.decoder.layers.#.cross_attn.attention_weights.*",
    "decoder.layers.#.cross_attention.value.*": "transformer.decoder.layers.#.cross_attn.value_proj.*",
    "decoder.layers.#.cross_attention.output.*": "transformer.decoder.layers.#.cross_attn.output_proj.*",
    "decoder.layers.#.norm2.*": "transformer.decoder.layers.#.norm2.*",
    "decoder.layers.#.expand.*": "transformer.decoder.layers.#.linear1.*",
    "decoder.layers.#.contract.*": "transformer.decoder.layers.#.linear2.*",
    "decoder.layers.#.norm3.*": "transformer.decoder.layers.#.norm3.*",
    "decoder.norm.*": "transformer.decoder.norm.*",
    "decoder.position_mlp.layers.#.*": "transformer.decoder.ref_point_head.layers.#.*",
    "class_head.*": "class_embed.*",
    "box_head.layers.#.*": "bbox_embed.layers.#.*",
    "query_boxes": "refpoint_embed.weight",
    "query_features": "query_feat.weight",
    "segmentation.bias": "segmentation_head.bias",
    "segmentation.blocks.#.depthwise.*": "segmentation_head.blocks.#.dwconv.*",
    "segmentation.blocks.#.norm.*": "segmentation_head.blocks.#.norm.*",
    "segmentation.blocks.#.pointwise.*": "segmentation_head.blocks.#.pwconv1.*",
    "segmentation.pixel_projection.*": "segmentation_head.spatial_features_proj.*",
    "segmentation.query_block.norm.*": "segmentation_head.query_features_block.norm_in.*",
    "segmentation.query_block.expand.*": "segmentation_head.query_features_block.layers.0.*",
    "segmentation.query_block.contract.*": "segmentation_head.query_features_block.layers.2.*",
    "segmentation.query_projection.*": "segmentation_head.query_features_proj.*",
}
# A buffer of upstream. It is empty except in keypoint models; files older than 1.11 do not have it.
KEYPOINT_MASK = "_kp_active_mask"


def to_upstream(name: str) -> str:
    """Upstream's name of a parameter. Raises KeyError for an unknown name."""
    return _translate(name, _TO_UPSTREAM)


def to_ours(name: str) -> str:
    """This project's name of an upstream parameter. Raises KeyError if no detector here has the parameter."""
    return _translate(name, _TO_OURS)


def upstream_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to upstream's names, and add the buffer that upstream expects."""
    mask = {KEYPOINT_MASK: torch.zeros(0, 0, dtype=torch.bool)}
    return mask | {to_upstream(name): value for name, value in weights.items()}


def _translate(name: str, table: list[tuple[re.Pattern[str], str]]) -> str:
    for pattern, target in table:
        if match := pattern.fullmatch(name):
            return re.sub(r"[#*]", "{}", target).format(*match.groups())
    raise KeyError(name)


def _compiled(pairs: dict[str, str]) -> list[tuple[re.Pattern[str], str]]:
    expressions = (re.escape(source).replace(r"\#", r"(\d+)").replace(r"\*", "(weight|bias)") for source in pairs)
    return list(zip(map(re.compile, expressions), pairs.values(), strict=True))


_TO_UPSTREAM = _compiled(_TABLE)
_TO_OURS = _compiled({theirs: ours for ours, theirs in _TABLE.items()})
