"""A small net for 8x8 handwritten digits, for the demonstration."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hetcompress.models.base import MODELS, InputSpec, ZooModel

__all__ = ["DigitsNet"]

INPUT = InputSpec((1, 8, 8), (0.3053,), (0.3760,))


class DigitsNet(nn.Module):
    """Four 3x3 convolutions with batch norm, the last two around a shortcut.

    Args:
        num_classes: Classes.
        in_channels: Channels of the images.
        width: Channels of the first two convolutions; the others have twice as many.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, width: int = 32) -> None:
        super().__init__()
        double = 2 * width
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, double, 3, 2, 1, bias=False), nn.BatchNorm2d(double)
        self.conv3, self.bn3 = nn.Conv2d(double, double, 3, 1, 1, bias=False), nn.BatchNorm2d(double)
        self.conv4, self.bn4 = nn.Conv2d(double, double, 3, 1, 1, bias=False), nn.BatchNorm2d(double)
        self.linear = nn.Linear(double, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(x + self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x))))))
        scores: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return scores


MODELS.register("digits_net")(ZooModel(DigitsNet, INPUT))
