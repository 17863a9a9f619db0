"""Which layers become int8: all of them, or as many as an accuracy allows.

A layer's sensitivity is the error of the scores when it alone is int8::

    sensitivity = sum (int8 - fp32)^2 / sum fp32^2        over all scores of some images

If all layers in int8 cost more accuracy than allowed, the most sensitive ones stay fp32: 1, 2, 4, ... of them until the
accuracy is reached, then the smallest sufficient number between the last two is found by bisection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from hetcompress.activity import counted, working
from hetcompress.errors import NothingToDoError
from hetcompress.evaluation import Accuracy
from hetcompress.targets.base import Runner
from hetcompress.targets.int8 import Layer, Quantiser

__all__ = ["Choice", "choose_layers", "sensitivities"]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What stays fp32, and what that is worth.

    Attributes:
        fp32_layers: Layers that stay fp32, most sensitive first.
        accuracy: Of the quantised model.
        tried: Percent of accuracy by number of layers left in fp32, in the order in which they were tried.
    """

    fp32_layers: tuple[Layer, ...]
    accuracy: Accuracy
    tried: dict[int, float]


def choose_layers(
    quantiser: Quantiser,
    path: Path,
    *,
    measure: Callable[[Path], Accuracy],
    rank: Callable[[], Sequence[Layer]],
    lowest: float,
) -> Choice:
    """Fill a file with a quantised model that is accurate enough and leaves as few layers as possible in fp32.

    Args:
        quantiser: Of the model.
        path: The file to fill.
        measure: Measures the accuracy of a file.
        rank: Orders all layers, most sensitive first; called if not all of them can be int8.
        lowest: Percent that must be reached.

    Raises:
        NothingToDoError: Even with every layer in fp32 the accuracy is lower.
    """
    found: dict[int, Accuracy] = {}

    def reached(count: int) -> bool:
        working(f"quantising with {count} layers in fp32")
        quantiser.write(path, exclude=order[:count])
        found[count] = measure(path)
        return found[count].percent >= lowest - 1e-9

    order: list[Layer] = []
    if reached(0):
        return Choice((), found[0], {0: found[0].percent})
    order += rank()
    too_few, enough = 0, 1
    while not reached(enough):
        if enough == len(order):
            raise _unreachable(found[enough], lowest)
        too_few, enough = enough, min(2 * enough, len(order))
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if reached(middle) else (middle, enough)
    quantiser.write(path, exclude=order[:enough])
    return Choice(tuple(order[:enough]), found[enough], {count: accuracy.percent for count, accuracy in found.items()})


def _unreachable(accuracy: Accuracy, lowest: float) -> NothingToDoError:
    return NothingToDoError(
        "export --int8",
        expected=f"an accuracy of at least {lowest:.2f} %",
        found=f"{accuracy.percent:.2f} % with all convolutions left in fp32",
        fix="allow a larger --int8-drop, or calibrate on more images with --int8-images",
    )


def sensitivities(
    quantiser: Quantiser, reference: Runner, open_file: Callable[[Path], Runner], images: Tensor, path: Path
) -> dict[Layer, float]:
    """Return the sensitivity of each layer, largest first.

    Args:
        quantiser: Of the model.
        reference: Runs the model in fp32.
        open_file: Opens a quantised file.
        images: Images to compare the scores of.
        path: A file to use meanwhile.
    """
    expected = reference(images).double()
    scale = max(float(expected.square().sum()), 1e-30)
    found = {}
    for layer in counted(quantiser.layers, "ranking for int8: layer"):
        quantiser.write(path, only=[layer])
        found[layer] = float((open_file(path)(images).double() - expected).square().sum()) / scale
    return dict(sorted(found.items(), key=lambda item: -item[1]))
