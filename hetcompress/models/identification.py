"""Finding the architecture of a state dict by comparing names and shapes with the known ones."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
from collections import Counter
from collections.abc import Container, Iterator, Mapping

from torch import Tensor

from hetcompress.errors import InputError
from hetcompress.models.architectures import Architecture, _torchvision_names
from hetcompress.models.base import MODELS

__all__ = ["differences", "identify", "number_of_classes", "others_that_fit", "without_common_prefix"]

TIMM = (
    "resnet18", "resnet26", "resnet34", "resnet50", "resnet101", "resnet18d", "resnet26d", "resnet34d", "resnet50d",
    "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv3_small_100", "efficientnet_b0", "efficientnet_b1",
    "regnetx_002", "regnetx_008", "regnety_002", "regnety_008", "convnext_tiny", "densenet121", "seresnet50",
    "wide_resnet50_2", "resnext50_32x4d", "vgg16_bn", "repvgg_b0", "mnasnet_100",
)  # fmt: skip
"""timm has over a thousand nets; these are compared.  Others are named with --arch timm:NAME."""

MARKS = {
    "hetcompress:resnet": "linear.weight", "hetcompress:vgg": "features.0.weight",
    "torchvision:alexnet": "features.0.weight", "torchvision:convnext": "features.0.0.weight",
    "torchvision:densenet": "features.conv0.weight", "torchvision:efficientnet": "features.0.0.weight",
    "torchvision:googlenet": "conv1.conv.weight", "torchvision:inception": "Conv2d_1a_3x3.conv.weight",
    "torchvision:maxvit": "stem.0.0.weight", "torchvision:mnasnet": "layers.0.weight",
    "torchvision:mobilenet": "features.0.0.weight", "torchvision:regnet": "stem.0.weight",
    "torchvision:resnet": "layer1.0.conv1.weight", "torchvision:resnet50": "layer3.5.conv3.weight",
    "torchvision:resnet101": "layer3.22.conv3.weight", "torchvision:resnet152": "layer3.35.conv3.weight",
    "torchvision:resnext50": "layer3.5.conv3.weight", "torchvision:resnext101": "layer3.22.conv3.weight",
    "torchvision:shufflenet": "conv1.0.weight", "torchvision:squeezenet": "features.3.squeeze.weight",
    "torchvision:swin": "features.0.0.weight", "torchvision:vgg": "features.0.weight",
    "torchvision:vit": "class_token", "torchvision:wide_resnet50": "layer3.5.conv3.weight",
    "torchvision:wide_resnet101": "layer3.22.conv3.weight", "timm:convnext": "stem.0.weight",
    "timm:densenet": "features.conv0.weight", "timm:efficientnet": "conv_stem.weight",
    "timm:regnet": "stem.conv.weight",
}  # fmt: skip
"""A tensor of every net whose spec begins so: where it is missing, the net need not be built to be ruled out."""

HEAVY = ("vit", "swin", "maxvit", "efficientnet", "regnet", "convnext", "densenet", "inception", "googlenet")
"""Nets that take long to build, even without weights."""

TWINS = ("densenet121", "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2")
"""Nets of torchvision and timm that share name and tensors; importing timm to find out would take a second."""

NEAREST = 3
Shapes = dict[str, tuple[int, ...]]


def number_of_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the rows of the last weight, where it looks like a classifier's (2-D, or a 1x1 convolution)."""
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim in (2, 4)]
    return int(weights[-1].shape[0]) if weights else None


def _candidates(classes: int | None) -> Iterator[list[Architecture]]:
    """Yield the known nets, source by source."""
    arguments = {} if classes is None else {"num_classes": classes}
    yield [
        Architecture(f"hetcompress:{name}", {**arguments, **more})
        for name in MODELS
        for more in ([{}, {"shortcut": "B"}] if name.startswith("resnet") else [{}])
    ]
    yield [Architecture(f"torchvision:{name}", dict(arguments)) for name in _torchvision_names()]
    if importlib.util.find_spec("timm") is not None:
        yield [Architecture(f"timm:{name}", dict(arguments)) for name in TIMM]


@functools.lru_cache(maxsize=512)
def _cached_shapes(spec: str, arguments: tuple[tuple[str, object], ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    model = Architecture(spec, dict(arguments)).build_meta()
    return tuple((name, tuple(tensor.shape)) for name, tensor in model.state_dict().items())


def _shapes_of(architecture: Architecture) -> Shapes:
    return dict(_cached_shapes(architecture.spec, tuple(sorted(architecture.arguments.items()))))


AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")
"""What torchvision's GoogLeNet and Inception files hold beside the net."""


def _counter(name: str) -> bool:
    """Tell whether a tensor is a batch norm's counter, which older torch versions did not save."""
    return name.endswith("num_batches_tracked")


@dataclasses.dataclass(frozen=True)
class Difference:
    """How a state dict differs from an architecture."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many tensors differ."""
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        parts = []
        for word, names in (("missing", self.missing), ("unexpected", self.unexpected), ("other shape", self.reshaped)):
            if names:
                more = f" and {len(names) - 2} more" if len(names) > 2 else ""
                parts.append(f"{word}: {', '.join(names[:2])}{more}")
        return "; ".join(parts) or "nothing"


def differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> Difference:
    """Compare the tensors of a file with those of a model."""
    return Difference(
        tuple(name for name in expected if name not in found and not _counter(name)),
        tuple(
            name
            for name in found
            if name not in expected and not _counter(name) and not name.startswith(AUXILIARY_HEADS)
        ),
        tuple(
            f"{name} {_size(found[name])} for {_size(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        ),
    )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape) or "scalar"


def identify(tensors: Mapping[str, Tensor], where: str = "checkpoint") -> Architecture:
    """Return the architecture whose tensors have exactly these names and shapes.

    Where our own, torchvision's and timm's nets coincide, the first of them is taken.

    Args:
        tensors: The state dict.
        where: The file, for messages.

    Raises:
        InputError: No known architecture fits, or several of one source do.
    """
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    classes = number_of_classes(tensors)
    for source in _candidates(classes):
        matches = [net for net in source if _marked(net, found) and not differences(found, _shapes_of(net)).size]
        if len(matches) == 1:
            return matches[0]
        if matches:
            specs = ", ".join(match.spec for match in matches)
            raise InputError(where, expected="one architecture that fits", found=specs, fix="choose with --arch")
    compared = []
    for net in itertools.chain.from_iterable(_candidates(classes)):
        if _marked(net, found) or not net.spec.partition(":")[2].startswith(HEAVY):
            expected = _shapes_of(net)
            compared.append((_likeness(found, expected), net.spec, differences(found, expected)))
    compared.sort(key=lambda item: item[0], reverse=True)
    nearest = " | ".join(f"{spec}: {difference}" for _, spec, difference in compared[:NEAREST])
    raise InputError(
        where, expected="the tensors of a known architecture", found=f"no exact match, nearest {nearest or 'none'}",
        fix="name yours with --arch (torchvision:NAME, timm:NAME, path/file.py:factory)",
    )  # fmt: skip


def _marked(net: Architecture, names: Container[str]) -> bool:
    """Tell whether a net may have tensors of these names."""
    marks = [beginning for beginning in MARKS if net.spec.startswith(beginning)]
    return not marks or MARKS[max(marks, key=len)] in names


def _likeness(found: Shapes, expected: Shapes) -> tuple[float, float]:
    """Return the share of tensors that agree in name and shape, and, for a renamed net, in shape alone."""
    pairs = len(found.items() & expected.items()) / len(found.keys() | expected.keys())
    here, there = Counter(found.values()), Counter(expected.values())
    return pairs, (here & there).total() / (here | there).total()


def others_that_fit(architecture: Architecture) -> tuple[str, ...]:
    """Return the nets of other sources that the same tensors fit as well."""
    source, _, name = architecture.spec.partition(":")
    if source == "torchvision" and name in TWINS and importlib.util.find_spec("timm") is not None:
        return (f"timm:{name}",)
    return ()


def without_common_prefix(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the first part that all names share, such as "model.", and the tensors without it; "" if there is none."""
    firsts = {name.partition(".")[0] for name in tensors}
    if len(firsts) != 1 or not all("." in name for name in tensors):
        return "", dict(tensors)
    prefix = f"{firsts.pop()}."
    return prefix, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
