"""The projector: for each scale, it resamples the encoder's maps, concatenates and fuses them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Converts the encoder's maps (B, inward, H, W) to one map (B, outward, H', W') per scale.

    Args:
        features: how many maps the encoder has.
        inward: channels of the encoder's maps.
        outward: channels of the resulting maps.
        scales: P3 (H' = 2 H), P4 (H' = H), P5 (H' = H / 2).
    """

    def __init__(self, *, features: int, inward: int, outward: int, scales: tuple[str, ...]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Level(features, inward, outward, scale) for scale in scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps of the scales, in order, in channels-last memory."""
        return [level(maps) for level in self.levels]


class Level(nn.Module):
    """One scale: each map is resampled by its own layer, then all are fused. The arguments are those of `Projector`."""

    def __init__(self, features: int, inward: int, outward: int, scale: str) -> None:
        super().__init__()
        resampled = inward // 2 if scale == "P3" else inward
        self.resamplers = nn.ModuleList(_resampler(inward, scale) for _ in range(features))
        self.fuse = C2f(features * resampled, outward)
        self.norm = ChannelNorm(outward)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps each (B, inward, H, W) to one map (B, outward, H', W')."""
        resampled = [resample(encoder_map) for resample, encoder_map in zip(self.resamplers, maps, strict=True)]
        return self.norm(self.fuse(torch.cat(resampled, dim=1)))  # type: ignore[no-any-return]


def _resampler(width: int, scale: str) -> nn.Module:
    if scale == "P3":
        return nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)
    if scale == "P4":
        return nn.Identity()
    if scale == "P5":
        return ConvNorm(width, width, kernel=3, stride=2, activation=nn.ReLU())
    raise ValueError(f"{scale} is not one of P3, P4, P5")


class C2f(nn.Module):
    """YOLOv8's cross-stage block: bottlenecks in a row. The last convolution reads the outputs of all stages.

    Args:
        inward, outward: channels of the input and of the output.
        bottlenecks: how many.
    """

    def __init__(self, inward: int, outward: int, bottlenecks: int = 3) -> None:
        super().__init__()
        self.stage_width = outward // 2
        self.reduce = ConvNorm(inward, 2 * self.stage_width, kernel=1)
        # A bottleneck is two convolutions without a skip connection.
        pairs = [[ConvNorm(self.stage_width, self.stage_width, kernel=3) for _ in range(2)] for _ in range(bottlenecks)]
        self.bottlenecks = nn.ModuleList(nn.Sequential(*pair) for pair in pairs)
        self.merge = ConvNorm((2 + bottlenecks) * self.stage_width, outward, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inward, H, W) to (B, outward, H, W)."""
        stages = list(self.reduce(x).chunk(2, dim=1))
        for bottleneck in self.bottlenecks:
            stages.append(bottleneck(stages[-1]))
        return self.merge(torch.cat(stages, dim=1))  # type: ignore[no-any-return]


class ConvNorm(nn.Module):
    """Convolution without bias, norm over the channels, activation.

    Args:
        inward, outward: channels of the input and of the output.
        kernel, stride: of the convolution, in pixels.
        activation: None: SiLU.
    """

    def __init__(
        self, inward: int, outward: int, *, kernel: int, stride: int = 1, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inward, outward, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(outward)
        self.activation = nn.SiLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, inward, H, W) to (B, outward, H / stride, W / stride)."""
        return self.activation(self.norm(self.convolution(x)))  # type: ignore[no-any-return]


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise. The shape stays, in channels-last memory."""
        rows = x.permute(0, 2, 3, 1)
        return F.layer_norm(rows, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
