"""Where the channels of a model flow: found by running it once, without tracing it.

Every call that reads or makes images (n, c, h, w) becomes a step.  Of three kinds of steps it is known what they do to
channels; any other one is taken to read all of them in this order, and perhaps to change in place what it reads.

    conv         its input channels and its filters are lists of their own
    channelwise  each channel of the output depends on the same channel of the inputs alone: activations, pools, batch
                 norms, depthwise convolutions, sums and products
    concat       the channels of the inputs side by side
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from hetcompress.nn import HetConv2d, LearnableHetConv2d

__all__ = ["Flow", "Lane", "Step", "spread_"]

CHANNELWISE = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "elu", "elu_", "gelu", "silu",
    "hardswish", "hardsigmoid", "mish", "tanh", "sigmoid", "clamp", "dropout", "max_pool2d", "max_pool2d_with_indices",
    "_max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "add", "add_", "sub", "sub_", "mul", "mul_", "maximum", "minimum",
}  # fmt: skip
CONCAT = {"cat", "concat", "concatenate"}
NO_VALUES = {"__get__", "dim", "size", "numel", "stride", "is_contiguous", "is_floating_point", "__len__"}
"""Functions that look at a tensor's shape or type and read no values (attributes are read by `__get__`)."""
CONVOLUTIONS = (nn.Conv2d, HetConv2d, LearnableHetConv2d)
FOLLOWED = (*CONVOLUTIONS, nn.BatchNorm2d)
"""Modules that are one step, whatever they call; of subclasses it is not known what they do."""

Kind = Literal["conv", "channelwise", "concat", "other"]
Lane = tuple[int, slice]
"""A value and some of its channels."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        kind: What it does to channels.
        reads: Values.
        makes: A value; None if it makes no image.
        module: Name of the module that is this step and no other; empty if there is none.
        call: Of a channelwise function: does it again with other images in place of `reads`, which it may change.
    """

    kind: Kind
    reads: tuple[int, ...]
    makes: int | None
    module: str
    call: Callable[..., Any] | None

    def ties(self, channels: list[int]) -> Iterator[list[Lane]]:
        """Yield lanes that must hold the same channels in the same order.

        Args:
            channels: Of each value, how many.
        """
        if self.makes is not None and self.kind == "channelwise":
            yield [(value, slice(0, channels[value])) for value in (*self.reads, self.makes)]
        if self.makes is not None and self.kind == "concat":
            start = 0
            for value in self.reads:
                yield [(value, slice(0, channels[value])), (self.makes, slice(start, start + channels[value]))]
                start += channels[value]


class Flow(TorchFunctionMode):
    """The steps of one run.

    A value is what a tensor holds at one time: a function that works in place makes a new value of the same tensor.

    Attributes:
        steps: In the order of the run.
        shapes: Of each value, that of the image tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.shapes: list[torch.Size] = []
        # by tensor, of those that are still in use: whoever kept them all would need the memory of all layers at once
        self._value = WeakTensorKeyDictionary()
        self._exposed = WeakTensorKeyDictionary()
        self._read_elsewhere: set[int] = set()  # ids of parameters, which live as long as the model
        self._inside = False

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, example_input: Float[Tensor, "n c h w"]) -> Flow:
        """Run a model, which is in eval mode, and return its steps."""
        flow = cls()
        handles = []
        for name, module in model.named_modules():
            if type(module) not in FOLLOWED:
                continue

            def before(_module: nn.Module, _inputs: Any) -> None:
                flow._inside = True

            def after(module: nn.Module, args: Any, kwargs: Any, output: Tensor, name: str = name) -> None:
                flow._inside = False
                flow._record(_kind_of_module(module, output) if name else "other", None, args, kwargs, output, name)

            handles.append(module.register_forward_pre_hook(before))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            with flow:
                output = model(example_input)
        finally:
            for handle in handles:
                handle.remove()
        flow._record("other", None, (output,), {}, None)
        flow._forget_shared(model)
        return flow

    @property
    def channels(self) -> list[int]:
        """How many channels each value has."""
        return [shape[1] for shape in self.shapes]

    def labels(self) -> list[Int[Tensor, " _"]]:
        """Return a number for each channel of each value, the same for those that are tied."""
        starts = torch.tensor([0, *self.channels]).cumsum(0).tolist()
        labels = [torch.arange(start, start + size) for start, size in zip(starts, self.channels, strict=False)]
        spread_(labels, (lanes for step in self.steps for lanes in step.ties(self.channels)), torch.minimum)
        return labels

    def skip(self, modules: Container[str]) -> None:
        """Leave out steps of modules that give on what they read: who read what they made reads that instead."""
        source: dict[int, int] = {}
        steps = []
        for step in self.steps:
            step = dataclasses.replace(step, reads=tuple(source.get(value, value) for value in step.reads))
            if step.module in modules and step.makes is not None:
                (source[step.makes],) = step.reads
            else:
                steps.append(step)
        self.steps = steps

    def hold(self, channels: Sequence[int]) -> None:
        """Let each value have so many channels."""
        self.shapes = [
            torch.Size([shape[0], count, *shape[2:]]) for shape, count in zip(self.shapes, channels, strict=True)
        ]

    def readers(self, value: int) -> list[Step]:
        """Return the steps that read a value."""
        return [step for step in self.steps if value in step.reads]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._inside and not (getattr(func, "__name__", "") in NO_VALUES and not isinstance(output, Tensor)):
            self._read_elsewhere |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, nn.Parameter)}
            self._record(_kind_of_function(func, args, kwargs, output), func, args, kwargs, output)
        return output

    def _record(self, kind: Kind, func: Any, args: Any, kwargs: Any, output: Any, module: str = "") -> None:
        images = _images((args, kwargs))
        if any(image is output and image in self._exposed for image in images):
            kind = "other"
        if kind == "other":
            images = [image for image in images if image in self._value]
            self._exposed.update(dict.fromkeys(images, True))  # a view of it may be changed in place later on
            if not images and not module:
                return
        reads = tuple(self._value_of(image) for image in images)
        makes = self._new_value(output) if isinstance(output, Tensor) and output.dim() == 4 else None
        call = _again(func, args, kwargs, images) if kind == "channelwise" and not module else None
        self.steps.append(Step(kind, reads, makes, module, call))

    def _value_of(self, image: Tensor) -> int:
        """Return the value that a tensor holds; one that is new here comes from an unknown step."""
        if image not in self._value:
            self.steps.append(Step("other", (), self._new_value(image), "", None))
        return int(self._value[image])

    def _new_value(self, image: Tensor) -> int:
        self._value[image] = len(self.shapes)
        self.shapes.append(image.shape)
        return len(self.shapes) - 1

    def _forget_shared(self, model: nn.Module) -> None:
        """Make unknown steps of modules that ran more than once, or whose weights something else reads as well.

        What one call allows, another may not.
        """
        names = [step.module for step in self.steps if step.module]
        shared = {
            name
            for name in names
            if names.count(name) > 1
            or any(id(one) in self._read_elsewhere for one in model.get_submodule(name).parameters())
        }
        self.steps = [
            dataclasses.replace(step, kind="other", module="") if step.module in shared else step for step in self.steps
        ]


def _images(arguments: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor) and leaf.dim() == 4]


def _kind_of_module(module: nn.Module, output: Tensor) -> Kind:
    if output.dim() != 4:
        return "other"
    if not isinstance(module, nn.Conv2d) or module.groups == module.in_channels == module.out_channels > 1:
        return "channelwise"
    return "conv" if module.groups == 1 else "other"


def _kind_of_function(func: Any, args: Any, kwargs: Any, output: Any) -> Kind:
    name = getattr(func, "__name__", "")
    images = _images((args, kwargs))
    if not isinstance(output, Tensor) or output.dim() != 4 or not images:
        return "other"
    if name in CONCAT:
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        return "concat" if dim in (1, -3) else "other"
    others = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim() != 4]
    alike = all(image.shape[1] == output.shape[1] for image in images) and all(leaf.numel() == 1 for leaf in others)
    return "channelwise" if name in CHANNELWISE and alike else "other"


@dataclasses.dataclass(frozen=True)
class _Hole:
    """Where an image stood among arguments."""

    number: int


def _again(func: Any, args: Any, kwargs: Any, images: list[Tensor]) -> Callable[..., Any]:
    """Return the call as a function of the images alone, without keeping theirs."""
    number = {id(image): i for i, image in enumerate(images)}
    pattern = tree_map_only(
        Tensor, lambda leaf: _Hole(number[id(leaf)]) if id(leaf) in number else leaf, (args, kwargs)
    )

    def call(*others: Tensor) -> Any:
        filled = tree_map_only(_Hole, lambda hole: others[hole.number], pattern)
        return func(*filled[0], **filled[1])

    return call


def spread_(values: Sequence[Tensor], ties: Iterable[list[Lane]], join: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Give tied channels one common entry, in place.

    Args:
        values: For each value an entry for each channel.
        ties: Lanes that hold the same channels.
        join: Makes one entry of two, element by element; idempotent and associative.
    """
    ties = list(ties)
    changed = True
    while changed:
        changed = False
        for lanes in ties:
            common = values[lanes[0][0]][lanes[0][1]].clone()
            for value, part in lanes[1:]:
                common = join(common, values[value][part])
            for value, part in lanes:
                changed = changed or not torch.equal(values[value][part], common)
                values[value][part] = common
