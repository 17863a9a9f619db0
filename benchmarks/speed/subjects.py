"""The nets of the speed table, and what compresses them."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import fnmatch
import functools
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from hetcompress import pipeline
from hetcompress.artifacts import RunFolder
from hetcompress.cost import layer_macs
from hetcompress.errors import HetCompressError
from hetcompress.graphs import onnx_bytes
from hetcompress.lowering import FewestMacs, Preferring, fold_batch_norms, lower
from hetcompress.machine import machine
from hetcompress.models import parse_architecture
from hetcompress.planning import FEWEST_MACS
from hetcompress.planning.measured import OURS
from hetcompress.targets.int8 import Quantiser, scheme_for

__all__ = ["NETS", "Net", "Subject", "compressed"]


@dataclasses.dataclass(frozen=True)
class Net:
    """An architecture and the image size it is timed at.

    Attributes:
        spec: Of the architecture.
        size: Pixels a side.
        streams: Shell patterns of layers whose filters Torch-Pruning must leave: it cannot follow their shortcuts.
        round_to: Numbers of filters that Torch-Pruning leaves are multiples of it; of a half or a quarter of it, where
            that comes nearer to a MAC ratio.
        heavy: Whether most weights lie in layers of few MACs: a target of MACs alone leaves those, and they take time.
    """

    spec: str
    size: int
    streams: tuple[str, ...] = ()
    round_to: int = 16
    heavy: bool = False


NETS = {
    "vgg16": Net("hetcompress:vgg16_bn", 32, heavy=True),
    "resnet56": Net("hetcompress:resnet56", 32, ("conv1", "*.conv2"), 4),
    "resnet34": Net("torchvision:resnet34", 224),
    "resnet50": Net("torchvision:resnet50", 224),
    "mobilenet_v2": Net("torchvision:mobilenet_v2", 224),
}
Place = TypeVar("Place")
GRANULARITIES = ("channels", "whole")
COMBS = (2, 4, 8, 16)
EQUAL = 0.05
"""MAC ratios this near are compared."""


class Subject:
    """A net, its dense form, and the files made on the way.

    Args:
        name: Of `NETS`.
        folder: For files.
        checkpoint: Trained weights; None initialises at random.
    """

    def __init__(self, name: str, folder: Path, checkpoint: Path | None) -> None:
        self.name, self.net, self.folder = name, NETS[name], folder
        self.trained = checkpoint is not None
        self.checkpoint = checkpoint or folder / "random.pt"
        self.example = torch.zeros(1, 3, self.net.size, self.net.size)
        if checkpoint is None:
            torch.manual_seed(0)
            torch.save(parse_architecture(self.net.spec).build().state_dict(), self.checkpoint)
        pipeline.convert(self.checkpoint, run=folder / "source", arch=self.net.spec)
        self.dense = fold_batch_norms(RunFolder.open(folder / "source").dense_model().eval(), self.example)

    @functools.cached_property
    def macs(self) -> int:
        """Of the dense net."""
        return macs_of(self.dense, self.example)

    def models(self, ratios: list[float]) -> dict[str, Callable[[], nn.Module]]:
        """Return what makes each compressed model."""
        makers: dict[str, Callable[[], nn.Module]] = {}
        for ratio in ratios:
            for granularity in GRANULARITIES:
                makers[f"{granularity} {ratio:g}x"] = functools.partial(self.learned, granularity, ratio)
            if self.net.heavy and self.trained:
                makers[f"channels, fewer weights {ratio:g}x"] = functools.partial(
                    self.learned, "channels", ratio, density=1 / (2 * ratio)
                )
            makers[f"Torch-Pruning {ratio:g}x"] = functools.partial(self.channel_pruned, ratio)
        return makers | {f"HetConv P{parts}": functools.partial(self.comb, parts) for parts in COMBS}

    def learned(self, granularity: str, ratio: float, density: float | None = None) -> nn.Module:
        """Return our net, shapes chosen by magnitude."""
        run = self.folder / f"{granularity}-{ratio}-{density}"
        if not run.exists():
            pipeline.convert(self.checkpoint, run=run, arch=self.net.spec, granularity=granularity)
            pipeline.prune(run, mac_ratio=ratio, density=density, evenly=not self.trained)
        return RunFolder.open(run).pruned_model().eval()

    def in_kernel(self, ratio: float) -> nn.Module:
        """Return our net of fine shapes, each layer in our kernel that fits it.

        By MACs alone, a layer of 9 filters would go to stock operators, for the 7 that the kernel adds.
        """
        rules = dataclasses.replace(FEWEST_MACS, kernels=True).rules
        chooser = Preferring(OURS, FewestMacs())
        return lower(self.learned("vector", ratio), self.example, rules=rules, chooser=chooser).model

    def comb(self, parts: int) -> nn.Module:
        """Return a HetConv net."""
        run = self.folder / f"comb-{parts}"
        pipeline.convert(
            self.checkpoint, run=run, arch=self.net.spec, family="hetconv", family_arguments={"parts": parts}
        )
        pipeline.prune(run)
        return RunFolder.open(run).pruned_model()

    def channel_pruned(self, ratio: float) -> nn.Module:
        """Return what Torch-Pruning makes, its pruning ratio searched until the MACs come nearest."""
        best, distance = self.dense, math.inf
        for round_to in (self.net.round_to, self.net.round_to // 2, self.net.round_to // 4):
            low, high = 0.0, 0.95
            for _ in range(8):
                model = self.with_fewer_channels((low + high) / 2, round_to)
                found = self.macs / macs_of(model, self.example)
                if abs(math.log(found / ratio)) < distance:
                    best, distance = model, abs(math.log(found / ratio))
                low, high = ((low + high) / 2, high) if found < ratio else (low, (low + high) / 2)
            if distance < math.log(1 + EQUAL):
                break
        return best

    def with_fewer_channels(self, share: float, round_to: int) -> nn.Module:
        """Return the net without this share of the channels of every layer, those of the least group magnitude."""
        import torch_pruning

        model = copy.deepcopy(self.dense)
        streams = [
            module
            for name, module in model.named_modules()
            if any(fnmatch.fnmatch(name, pattern) for pattern in self.net.streams)
        ]
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
        torch_pruning.pruner.MagnitudePruner(
            model, self.example, torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=share,
            ignored_layers=heads + streams, round_to=round_to,
        ).step()  # fmt: skip
        return model

    def files(self, name: str, model: nn.Module) -> tuple[Path, Path]:
        """Write a model as ONNX, in fp32 and in int8, unless that was done before."""
        path, quantised = self.folder / f"{name}.onnx", self.folder / f"{name}.int8.onnx"
        if not quantised.exists():
            path.write_bytes(onnx_bytes(model, self.example))
            images = torch.randn(8, *self.example.shape[1:], generator=torch.Generator().manual_seed(0))
            with tempfile.TemporaryDirectory() as folder:
                Quantiser(path, [images], scheme_for(machine()), Path(folder)).write(quantised)
        return path, quantised


def macs_of(model: nn.Module, example: torch.Tensor) -> int:
    """Return the MACs of a plain model."""
    return sum(layer.dense for layer in layer_macs(model, example).values())


def compressed(
    options: argparse.Namespace, wanted: Callable[[str, str], list[Place]]
) -> Iterator[tuple[Subject, str, nn.Module, list[Place]]]:
    """Yield each compressed model that rows are wanted of, its net and its name before it, the rows after it.

    Args:
        options: The nets, models (shell patterns), ratios and checkpoints (NET=FILE) that were asked for.
        wanted: Returns what is wanted of a net and a model, by their names.
    """
    checkpoints = dict(item.split("=", 1) for item in options.checkpoint)
    for name in options.nets:
        with tempfile.TemporaryDirectory() as temporary:
            subject = Subject(name, Path(temporary), Path(checkpoints[name]) if name in checkpoints else None)
            for label, make in subject.models(options.ratios).items():
                places = wanted(name, label)
                if not places or not any(fnmatch.fnmatch(label, pattern) for pattern in options.models):
                    continue
                try:
                    model = make().eval()
                except (HetCompressError, ImportError) as error:
                    print(f"{name} {label}: {error}", flush=True)
                    continue
                yield subject, label, model, places
