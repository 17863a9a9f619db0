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
        widths = (in_channels, width, 2 * width, 2 * width, 2 * width)
        strides = (1, 2, 1, 1)
        for i in range(4):
            conv = nn.Conv2d(widths[i], widths[i + 1], 3, strides[i], 1, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.linear = nn.Linear(2 * width, num_classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(x + self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x))))))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


MODELS.register("digits_net")(ZooModel(DigitsNet, INPUT))
