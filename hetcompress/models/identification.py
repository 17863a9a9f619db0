"""Finding the architecture of a state dict by comparing names and shapes with the known ones."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping

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

NEAREST = 3
Shapes = dict[str, tuple[int, ...]]


def number_of_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """Return the rows of the last weight, where it looks like a classifier's (2-D, or a 1x1 convolution)."""
    weights = [tensor for name, tensor in tensors.items() if name.endswith("weight") and tensor.ndim in (2, 4)]
    return int(weights[-1].shape[0]) if weights else None


def _candidates(classes: int | None) -> Iterator[Architecture]:
    arguments = {} if classes is None else {"num_classes": classes}
    for name in MODELS:
        yield Architecture(f"hetcompress:{name}", dict(arguments))
        if name.startswith("resnet"):
            yield Architecture(f"hetcompress:{name}", {**arguments, "shortcut": "B"})
    for name in _torchvision_names():
        yield Architecture(f"torchvision:{name}", dict(arguments))
    if importlib.util.find_spec("timm") is not None:
        for name in TIMM:
            yield Architecture(f"timm:{name}", dict(arguments))


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
    first = next(iter(found), "")
    compared: list[tuple[tuple[float, float], str, Difference]] = []
    matches: list[Architecture] = []
    for candidate in _candidates(number_of_classes(tensors)):
        source = candidate.spec.partition(":")[0]
        if matches and not matches[0].spec.startswith(f"{source}:"):
            break  # an earlier source has it
        if not _plausible(candidate, first):
            continue
        expected = _shapes_of(candidate)
        difference = differences(found, expected)
        if difference.size == 0:
            matches.append(candidate)
        compared.append((_likeness(found, expected), candidate.spec, difference))
    if len(matches) == 1:
        return matches[0]
    if matches:
        specs = ", ".join(match.spec for match in matches)
        raise InputError(where, expected="one architecture that fits", found=specs, fix="choose with --arch")
    compared.sort(key=lambda item: item[0], reverse=True)
    nearest = " | ".join(f"{spec}: {difference}" for _, spec, difference in compared[:NEAREST])
    raise InputError(
        where, expected="the tensors of a known architecture", found=f"no exact match, nearest {nearest or 'none'}",
        fix="name yours with --arch (torchvision:NAME, timm:NAME, path/file.py:factory)",
    )  # fmt: skip


def _likeness(found: Shapes, expected: Shapes) -> tuple[float, float]:
    """Return the share of tensors that agree in name and shape, and, for a renamed net, in shape alone."""
    pairs = len(found.items() & expected.items()) / len(found.keys() | expected.keys())
    here, there = Counter(found.values()), Counter(expected.values())
    return pairs, (here & there).total() / (here | there).total()


def others_that_fit(architecture: Architecture, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the nets of other sources, of the same name, that the tensors fit as well; all that do share the name."""
    name = architecture.spec.partition(":")[2]
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    others = [
        other
        for other in _candidates(number_of_classes(tensors))
        if other.spec != architecture.spec and other.spec.partition(":")[2] == name
    ]
    return tuple(dict.fromkeys(o.spec for o in others if differences(found, _shapes_of(o)).size == 0))


def without_common_prefix(tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """Return the first part that all names share, such as "model.", and the tensors without it; "" if there is none."""
    firsts = {name.partition(".")[0] for name in tensors}
    if len(firsts) != 1 or not all("." in name for name in tensors):
        return "", dict(tensors)
    prefix = f"{firsts.pop()}."
    return prefix, {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _plausible(candidate: Architecture, first: str) -> bool:
    """Skip nets that are slow to build and whose first tensor is called otherwise."""
    heavy = ("vit", "swin", "maxvit", "efficientnet", "regnet", "convnext", "densenet", "inception", "googlenet")
    name = candidate.spec.partition(":")[2]
    if not name.startswith(heavy):
        return True
    starts: dict[str, str | tuple[str, ...]] = {
        "vit": "class_token", "swin": "features.0", "maxvit": "stem", "efficientnet": ("features.0", "conv_stem"),
        "regnet": "stem", "convnext": ("features.0", "stem"), "densenet": "features.conv0",
        "inception": "Conv2d_1a", "googlenet": "conv1.conv",
    }  # fmt: skip
    return first.startswith(next(start for kind, start in starts.items() if name.startswith(kind)))
