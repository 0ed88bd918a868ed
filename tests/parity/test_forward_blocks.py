"""Each block of the network equals upstream's, in small configurations and float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

pytest.importorskip("rfdetr")
from rfdetr.models.ops.functions import ms_deform_attn_core_pytorch
from rfdetr.models.ops.modules import MSDeformAttn
from rfdetr.models.postprocess import PostProcess
from rfdetr.models.transformer import gen_encoder_output_proposals, gen_sineembed_for_position
from torch import Tensor

from rfdetr_core.model.decoder import encode_boxes
from rfdetr_core.model.deformable import DeformableAttention, flatten_maps, sample
from rfdetr_core.model.postprocess import postprocess
from rfdetr_core.model.proposals import make_anchors
from rfdetr_core.model.vit import resize_positions
from rfdetr_core.ops.structures import DetectorOutput
from tests.parity.reference import SMALL, pair, random_images
from tests.small import random_weight

EXACT, IN_FP32 = 1e-9, 1e-6
LEVELS = [("P3",), ("P4",), ("P5",), ("P3", "P5"), ("P3", "P4", "P5")]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_boxes(*shape: int, seed: int = 0) -> Tensor:
    """Random boxes cxcywh. Some reach beyond the image."""
    return torch.rand(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.2 - 0.1


def close(ours: Tensor, theirs: Tensor, tolerance: float = EXACT) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("index", [0, 2], ids=["windowed", "global"])
@torch.inference_mode()
def test_encoder_block(index: int) -> None:
    both = pair(replace(SMALL, feature_indexes=(2, 4)))
    layer = both.upstream.backbone[0].encoder.encoder.encoder.layer[index]
    x = noise(8, 17, 24)
    close(both.ours.encoder.blocks[index](x), layer(x, run_full_attention=index == 2)[0])


@pytest.mark.parametrize("windows", [1, 2, 4])
@pytest.mark.parametrize("features", [(1, 2, 3, 4), (1, 3), (2, 3)])
@torch.inference_mode()
def test_encoder(windows: int, features: tuple[int, ...]) -> None:
    both = pair(replace(SMALL, windows=windows, feature_indexes=features))
    for shape, tolerance in [((64, 64), EXACT), ((96, 96), IN_FP32), ((32, 128), IN_FP32), ((64, 32), IN_FP32)]:
        images = random_images(2, 3, *shape, dtype=torch.float64)
        for ours, theirs in zip(both.ours.encoder(images), both.upstream.backbone[0].encoder(images), strict=True):
            close(ours, theirs, tolerance)


@pytest.mark.parametrize("channels", [1, 4])
@torch.inference_mode()
def test_encoder_of_other_channels(channels: int) -> None:
    both = pair(replace(SMALL, channels=channels))
    images = random_images(1, channels, 64, 64, dtype=torch.float64)
    for ours, theirs in zip(both.ours.encoder(images), both.upstream.backbone[0].encoder(images), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("shape", [(8, 8), (16, 4), (4, 16), (3, 5), (20, 20)])
@torch.inference_mode()
def test_position_embeddings(shape: tuple[int, int]) -> None:
    both = pair(SMALL)
    embeddings = both.upstream.backbone[0].encoder.encoder.embeddings
    theirs = embeddings.interpolate_pos_encoding(noise(1, shape[0] * shape[1] + 1, 24), shape[0] * 8, shape[1] * 8)
    close(resize_positions(both.ours.encoder.position_embeddings, *shape), theirs)


@pytest.mark.parametrize("scales", LEVELS)
@torch.inference_mode()
def test_projector(scales: tuple[str, ...]) -> None:
    both = pair(replace(SMALL, projector_scales=scales))
    maps = [noise(2, 24, 8, 6, seed=index) for index in range(4)]
    for ours, theirs in zip(both.ours.projector(maps), both.upstream.backbone[0].projector(maps), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_anchors(padded: bool) -> None:
    shapes = [(60, 52), (30, 26), (4, 3)]
    padding = torch.zeros(2, 240, 208, dtype=torch.bool)
    padding[0, 100:] = padding[0, :, 150:] = padding[1, :, 77:] = padded
    memory = flatten_maps([noise(2, 8, *shape) for shape in shapes], padding if padded else None)
    tokens, theirs = gen_encoder_output_proposals(memory.tokens, memory.padding, shapes, unsigmoid=False)
    anchors, unusable = make_anchors(memory)
    close(anchors.expand(2, -1, -1), theirs)
    close(memory.tokens.masked_fill(unusable, 0), tokens)
    assert unusable.any()
    assert not unusable.all()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("scales", [("P4",), ("P3", "P5")])
@pytest.mark.parametrize("training", [False, True])
def test_proposals_and_decoder(padded: bool, scales: tuple[str, ...], training: bool) -> None:
    both = pair(replace(SMALL, projector_scales=scales)).train(training)
    shapes = [(16, 16), (4, 4)] if len(scales) == 2 else [(8, 8)]
    maps = [noise(2, 32, *shape, seed=index) for index, shape in enumerate(shapes)]
    padding = torch.zeros(2, 64, 64, dtype=torch.bool)
    padding[0, 40:] = padding[1, :, 30:] = padded
    memory = flatten_maps(maps, padding if padded else None)
    groups = 13 if training else 1
    rows = groups * SMALL.queries
    masks = [torch.nn.functional.interpolate(padding[None].float(), shape)[0].bool() for shape in shapes]
    learned = both.upstream.refpoint_embed.weight[:rows], both.upstream.query_feat.weight[:rows]
    states, references, features, boxes, *_ = both.upstream.transformer(maps, masks, maps, *learned)

    ours = both.ours.proposer(memory, groups)
    close(ours.features, features)
    close(ours.boxes, boxes)
    heads = both.upstream.transformer.enc_out_class_embed
    logits = [head(chunk) for head, chunk in zip(heads, features.chunk(groups, dim=1), strict=False)]
    close(ours.logits, torch.cat(logits, dim=1))
    start = both.ours._references(ours.boxes.detach(), groups)
    close(start, references[0])
    queries = both.ours.query_features[:rows].expand(2, -1, -1)
    for ours_state, theirs in zip(both.ours.decoder(queries, start, memory, groups), states, strict=True):
        close(ours_state, theirs)


@pytest.mark.parametrize("levels", [1, 2])
@torch.inference_mode()
def test_deformable_attention(levels: int) -> None:
    theirs = MSDeformAttn(32, n_levels=levels, n_heads=4, n_points=3)
    ours = DeformableAttention(32, heads=4, levels=levels, points=3)
    close(ours.offsets.bias, theirs.sampling_offsets.bias)
    renamed = {"offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj"}
    for name, parameter in ours.named_parameters():
        layer, _, kind = name.partition(".")
        upstream = f"{renamed.get(layer, 'output_proj')}.{kind}"
        value = random_weight(upstream, parameter)
        parameter.copy_(value)
        theirs.get_parameter(upstream).copy_(value)
    ours, theirs = ours.double(), theirs.double()
    shapes = [(7, 9), (4, 5)][:levels]
    padding = torch.zeros(2, 28, 36, dtype=torch.bool)
    padding[1, 12:] = True
    memory = flatten_maps([noise(2, 32, *shape) for shape in shapes], padding)
    queries, boxes = noise(2, 50, 32), some_boxes(2, 50, levels)
    sizes = torch.tensor(shapes)
    expected = theirs(queries, boxes, memory.tokens, sizes, None, memory.padding, shapes)
    close(ours(queries, boxes, memory), expected)


@torch.inference_mode()
def test_sampler() -> None:
    shapes = ((5, 6), (3, 2))
    values, weights = noise(2, 36, 4, 8), noise(2, 30, 4, 2, 3)
    locations = some_boxes(2, 30, 4, 2, 3)[..., :2]
    theirs = ms_deform_attn_core_pytorch(
        values.permute(0, 2, 3, 1).contiguous(), torch.tensor(shapes), locations, weights
    )
    close(sample(values, shapes, locations, weights), theirs)


@torch.inference_mode()
def test_box_codes() -> None:
    boxes = some_boxes(2, 30)
    close(encode_boxes(boxes, 16), gen_sineembed_for_position(boxes, 16))


@torch.inference_mode()
def test_segmentation_head() -> None:
    both = pair(replace(SMALL, segmentation=True))
    theirs, ours = both.upstream.segmentation_head, both.ours.segmentation
    features, states = noise(2, 32, 8, 6), [noise(2, 20, 32, seed=index) for index in range(2)]
    pixels = ours.pixels(features, (64, 48))
    for mask, expected in zip(ours(pixels, states), theirs(features, states, (64, 48)), strict=True):
        close(mask.dense(), expected)
    close(ours.factors(pixels, states[0]).dense(), theirs(features, states[:1], (64, 48), skip_blocks=True)[0])


@pytest.mark.parametrize("limit", [1, 50, 1000])
@torch.inference_mode()
def test_postprocessing(limit: int) -> None:
    # Rounding gives equal scores; logits of 40 all give a probability of 1.
    logits = (noise(2, 60, 7) * 2).round()
    logits[0, :9] = torch.tensor([40.0, 39.0, 41.0])[:, None].repeat(3, 1)
    boxes = some_boxes(2, 60) * 1.5
    boxes[:, 5, 2:] = -0.1
    masks, sizes = noise(2, 60, 6, 5), [(31, 47), (20, 10)]
    upstream = {"pred_logits": logits, "pred_boxes": boxes, "pred_masks": masks}
    results = PostProcess(limit)(upstream, torch.tensor(sizes))
    for ours, theirs in zip(postprocess(DetectorOutput(logits, boxes, masks), sizes, limit), results, strict=True):
        close(ours.scores, theirs["scores"])
        close(ours.boxes, theirs["boxes"])
        assert ours.labels.equal(theirs["labels"])
        assert ours.masks is not None
        assert ours.masks.equal(theirs["masks"][:, 0])
    above = PostProcess(limit)(upstream, torch.tensor(sizes), score_threshold=0.6)
    for ours, theirs in zip(postprocess(DetectorOutput(logits, boxes, masks), sizes, limit, 0.6), above, strict=True):
        close(ours.boxes, theirs["boxes"])
        assert ours.labels.equal(theirs["labels"])
