"""VGG-16 and VGG-19 for 32x32 images, with and without batch norm (the nets of HetConv and LHC).

Convolutions as in Simonyan and Zisserman (arXiv 1409.1556), ``features.N`` named as torchvision does; the classifier is
512 -> 512 -> classes with batch norm between where the net has it.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hetcompress.models.base import MODELS, InputSpec, ZooModel

__all__ = ["CifarVGG"]

INPUT = InputSpec((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
STAGES = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


class CifarVGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by max pooling, and two linear layers.

    Args:
        depth: 16 or 19.
        batch_norm: Normalise after each convolution.
        num_classes: Classes.
        in_channels: Channels of the images.
    """

    def __init__(self, depth: int, batch_norm: bool, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width, count in zip(WIDTHS, STAGES[depth], strict=True):
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=1))
                layers += [nn.BatchNorm2d(width)] if batch_norm else []
                layers.append(nn.ReLU(inplace=True))
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        norm = [nn.BatchNorm1d(512)] if batch_norm else []
        self.classifier = nn.Sequential(nn.Linear(512, 512), *norm, nn.ReLU(inplace=True), nn.Linear(512, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        scores: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return scores


for depth in STAGES:
    for batch_norm in (False, True):
        name = f"vgg{depth}_bn" if batch_norm else f"vgg{depth}"
        MODELS.register(name)(ZooModel(functools.partial(CifarVGG, depth, batch_norm), INPUT))
