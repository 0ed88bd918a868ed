"""The whole network: encoder, projector, proposals, decoder and heads, built from the numbers of an Architecture."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from rfdetr_core.model.config import Architecture
from rfdetr_core.model.decoder import Decoder
from rfdetr_core.model.deformable import flatten_maps
from rfdetr_core.model.layers import MLP, zero_last
from rfdetr_core.model.projector import Projector
from rfdetr_core.model.proposals import Proposer
from rfdetr_core.model.segmentation import SegmentationHead
from rfdetr_core.model.vit import VisionTransformer
from rfdetr_core.ops.boxes import apply_delta
from rfdetr_core.ops.structures import DetectorOutput, MaskFactors

PRIOR = 0.01  # an untrained detector's score of each class; it is low because nearly all queries are negatives


class Detector(nn.Module):
    """The whole network. In training its output has all groups of queries, otherwise only the first group.

    Args:
        architecture: the numbers.
        drop_path, gradient_checkpointing: see `build_detector`.
    """

    def __init__(
        self, architecture: Architecture, *, drop_path: float = 0.0, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        width = architecture.width
        self.queries, self.groups = architecture.queries, architecture.groups
        self.encoder = VisionTransformer(
            channels=architecture.channels,
            patch_size=architecture.patch_size,
            width=architecture.encoder_width,
            blocks=architecture.encoder_blocks,
            heads=architecture.encoder_heads,
            mlp_ratio=architecture.encoder_mlp_ratio,
            windows=architecture.windows,
            position_grid=architecture.position_grid,
            feature_indexes=architecture.feature_indexes,
            drop_path=drop_path,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.projector = Projector(
            features=len(architecture.feature_indexes),
            inward=architecture.encoder_width,
            outward=width,
            scales=architecture.projector_scales,
        )
        class_head = nn.Linear(width, architecture.classes + 1)
        nn.init.constant_(class_head.bias, -math.log((1 - PRIOR) / PRIOR))
        box_head = zero_last(MLP(width, width, width, 4))
        # The order of the parts decides their initial random numbers, and is the order in upstream's files.
        self.proposer = Proposer(width, class_head, box_head, groups=self.groups, limit=self.queries)
        self.decoder = Decoder(
            width,
            layers=architecture.decoder_layers,
            self_heads=architecture.self_heads,
            cross_heads=architecture.cross_heads,
            levels=len(architecture.projector_scales),
            points=architecture.points,
            feedforward_width=architecture.feedforward_width,
        )
        self.class_head, self.box_head = class_head, box_head
        self.segmentation: SegmentationHead | None = None
        if architecture.segmentation:
            ratio = architecture.mask_downsample_ratio
            self.segmentation = SegmentationHead(width, blocks=architecture.decoder_layers, downsample_ratio=ratio)
        self.query_boxes = nn.Parameter(torch.zeros(self.groups * self.queries, 4))
        self.query_features = nn.Parameter(torch.randn(self.groups * self.queries, width))

    def forward(self, images: Tensor, padding: Tensor | None = None) -> DetectorOutput:
        """The output of the last decoder layer, with those of the inner layers and the proposals.

        Boxes are relative to the image without its padding. Masks are dense in evaluation and factors in training.

        Args:
            images: normalised, (B, channels, H, W). H and W must be divisible by the stride.
            padding: (B, H, W) bool, True outside of the image; None: no padding.
        """
        groups = self.groups if self.training else 1
        maps = self.projector(self.encoder(images))
        memory = flatten_maps(maps, padding)
        proposals = self.proposer(memory, groups)
        boxes = self._references(proposals.boxes.detach(), groups)
        queries = self.query_features[: boxes.shape[1]].expand(images.shape[0], -1, -1)
        states = self.decoder(queries, boxes, memory, groups)
        masks: list[MaskFactors | None] = [None] * len(states)
        proposal_masks = None
        if self.segmentation is not None:
            pixels = self.segmentation.pixels(maps[0], (images.shape[-2], images.shape[-1]))
            masks = [*self.segmentation(pixels, states)]
            proposal_masks = self.segmentation.factors(pixels, proposals.features)
        layers = [
            DetectorOutput(self.class_head(state), apply_delta(self.box_head(state), boxes), mask)
            for state, mask in zip(states, masks, strict=True)
        ]
        first = DetectorOutput(proposals.logits, proposals.boxes, proposal_masks)
        last = replace(layers[-1], auxiliary=tuple(layers[:-1]), proposals=first)
        if isinstance(last.masks, MaskFactors) and not self.training:
            return replace(last, masks=last.masks.dense())
        return last

    def _references(self, proposals: Tensor, groups: int) -> Tensor:
        """The queries' boxes (B, G*Q, 4): the learned delta i applied to proposal i, or delta i without a proposal."""
        learned = self.query_boxes[: groups * self.queries].expand(proposals.shape[0], -1, -1)
        count = proposals.shape[1]
        # Proposals and deltas are paired by their position, counted over all groups. With fewer tokens than queries, a
        # group has fewer proposals than deltas. In training, proposals of later groups are then paired with deltas of
        # an earlier group, and the last queries get no proposal. Upstream does the same.
        return torch.cat([apply_delta(learned[:, :count], proposals), learned[:, count:]], dim=1)


def build_detector(
    architecture: Architecture,
    *,
    drop_path: float = 0.0,
    gradient_checkpointing: bool = False,
    freeze_encoder: bool = False,
) -> Detector:
    """A new detector with random weights, initialised as upstream does, from torch's global generator.

    Args:
        architecture: the numbers.
        drop_path: rate of stochastic depth in the encoder's last block.
        gradient_checkpointing: recompute the encoder's activations in the backward pass.
        freeze_encoder: give the encoder no gradients.
    """
    detector = Detector(architecture, drop_path=drop_path, gradient_checkpointing=gradient_checkpointing)
    if freeze_encoder:
        detector.encoder.requires_grad_(False)
    return detector
