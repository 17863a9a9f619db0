"""ResNets for 32x32 images (He et al., arXiv 1512.03385, section 4.2): 20, 32, 44, 56 and 110 layers.

Names and shapes are those of the widespread public checkpoints (``conv1``, ``layer1.0.conv1``, ..., ``linear``).
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.errors import UsageError
from hetcompress.models.base import MODELS, InputSpec, ZooModel

__all__ = ["CifarResNet"]

# The public checkpoints were trained with ImageNet's statistics.
INPUT = InputSpec((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class PaddedIdentity(nn.Module):
    """Shortcut A: every second pixel, zeros for the new channels; no parameters.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; the zeros go half in front, half behind.
        stride: Pixels from one to the next.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before
        self.stride = stride

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return the strided, padded input."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels and shortcut == "A":
            self.shortcut = PaddedIdentity(in_channels, out_channels, stride)
        elif in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """Return relu(F(x) + shortcut(x))."""
        # in place: on these small nets the passes over memory take as long as the convolutions
        out = F.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu_(out)


def _stage(blocks: int, before: int, after: int, stride: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(before, after, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(after, after, 1, shortcut) for _ in range(blocks - 1)))


class CifarResNet(nn.Module):
    """Three stages of basic blocks with 16, 32 and 64 channels.

    Args:
        blocks: Blocks of each stage: (depth - 2) / 6.
        num_classes: Classes.
        in_channels: Channels of the images.
        shortcut: "A" (padded identity) or "B" (1x1 convolution) where the size changes.

    Raises:
        UsageError: An unknown shortcut.
    """

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3, shortcut: str = "A") -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise UsageError("shortcut", expected="A or B", found=str(shortcut))
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1, shortcut)
        self.layer2 = _stage(blocks, 16, 32, 2, shortcut)
        self.layer3 = _stage(blocks, 32, 64, 2, shortcut)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        x = F.relu_(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return scores


for depth in (20, 32, 44, 56, 110):
    MODELS.register(f"resnet{depth}")(ZooModel(functools.partial(CifarResNet, (depth - 2) // 6), INPUT))
