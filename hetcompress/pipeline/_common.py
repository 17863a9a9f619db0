"""What several verbs share: data settings, opening a run's data, writing down a pruned model, complaints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.comparisons import Comparison
from hetcompress.cost import layer_macs
from hetcompress.data import DataSource, open_data
from hetcompress.difficulty import TooHard
from hetcompress.errors import InputError, UsageError
from hetcompress.evaluation import Accuracy
from hetcompress.files import sha256_of
from hetcompress.finetuning import Finetuned
from hetcompress.models import InputSpec
from hetcompress.nn import HetConv2d
from hetcompress.planning import TimeRatio
from hetcompress.surgery import named_modules_of

__all__ = [
    "DataSettings",
    "Pruned",
    "check_classes",
    "check_seconds",
    "finish",
    "kept_of",
    "not_faster",
    "open_run_data",
    "random_images",
]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, and how images are augmented.

    Attributes:
        name: A registered data source.
        root: Its folder; None looks at HETCOMPRESS_DATA, or at ./data where that is not set.
        download: Fetch it if it is not there.
        workers: Processes that decode images, for sources that do not fit memory.
        crop_padding: Pixels of padding before a random crop; None takes the source's own default, as do the next two.
        flip: Mirror half of the images.
        cutout: Side of a blanked square; 0 for none.
    """

    name: str
    root: Path | None = None
    download: bool = False
    workers: int = 2
    crop_padding: int | None = None
    flip: bool | None = None
    cutout: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "root": None if self.root is None else str(self.root)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataSettings:
        """Build settings from what `to_json` returned; nothing is downloaded without being asked again.

        Raises:
            InputError: It returned something else.
        """
        try:
            root = values["root"]
            return cls(**{**values, "root": None if root is None else Path(root), "download": False})
        except (KeyError, TypeError) as error:
            raise InputError(
                "recorded data settings", expected="name, root and the other fields",
                found=f"{type(error).__name__}: {error}", fix="name the data again with --data",
            ) from None  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pruned:
    """What `finetune` or `prune` left in the run folder.

    Attributes:
        run: The run folder.
        density: Kept over all weights of the converted layers.
        mac_ratio: Dense over effective MACs of the whole model.
        accuracies: What was measured, in order (empty without data).
        time: Of the whole model, where time was the target.
        too_hard: What is to be said of the target, if anything.
    """

    run: Path
    density: float
    mac_ratio: float
    accuracies: dict[str, Accuracy]
    time: TimeRatio | None = None
    too_hard: TooHard | None = None

    @classmethod
    def from_record(cls, run: Path, record: Mapping[str, Any]) -> Pruned:
        """Build it from what `finish` wrote down.

        Raises:
            InputError: It wrote down something else.
        """
        try:
            accuracies = {name: Accuracy(**values) for name, values in record["accuracies"].items()}
            time, hard = record["time_ratio"], record["too_hard"]
            return cls(
                run, record["density"], record["mac_ratio"], accuracies, None if time is None else TimeRatio(**time),
                None if hard is None else TooHard.from_json(hard),
            )  # fmt: skip
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"run folder {run}", expected="results of finetune", found="other ones", fix="pass --resume never"
            ) from None


def check_seconds(seconds: float) -> None:
    """Refuse a time to measure for that is none.

    Raises:
        UsageError: It is negative or not finite.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise UsageError("--seconds", expected="a number of at least 0", found=f"{seconds:g}")


def random_images(spec: InputSpec, count: int = 2) -> torch.Tensor:
    """Return seeded random images as the model expects them, shape (count, channels, height, width)."""
    return torch.randn(count, *spec.size, generator=torch.Generator().manual_seed(0))


def open_run_data(run: RunFolder, data: DataSettings) -> DataSource:
    """Open the data with the size and normalisation of the run's model, and check the number of classes."""
    spec = run.input_spec
    chosen: dict[str, Any] = {
        name: value
        for name, value in (("crop_padding", data.crop_padding), ("flip", data.flip), ("cutout", data.cutout))
        if value is not None
    }
    source = open_data(
        data.name,
        root=data.root,
        download=data.download,
        mean=spec.mean,
        std=spec.std,
        image_size=spec.size,
        augment=chosen,
        workers=data.workers,
    )
    if tuple(source.image_size) != tuple(spec.size):
        raise InputError(
            f"data {data.name}", expected=f"images of size {spec.size}, as the model takes",
            found=str(source.image_size), fix="choose the data that the model was trained on",
        )  # fmt: skip
    return source


@torch.no_grad()
def check_classes(model: nn.Module, source: DataSource, spec: InputSpec) -> None:
    """Refuse data whose number of classes is not that of the model.

    Raises:
        InputError: The numbers differ.
    """
    outputs = model.eval()(random_images(spec)).shape[1]
    if outputs != len(source.classes):
        raise InputError(
            f"data {source.name}", expected=f"{outputs} classes, as the model has",
            found=f"{len(source.classes)} classes", fix="choose the data that the model was trained on",
        )  # fmt: skip


def finish(
    folder: RunFolder, stage: str, settings: Mapping[str, Any], result: Finetuned, time: TimeRatio | None = None
) -> Pruned:
    """Write a pruned model and what led to it into the run folder."""
    before = sha256_of(folder.pruned) if folder.pruned.exists() else None
    folder.save_pruned(result.model)
    if before != sha256_of(folder.pruned):  # reports and exports of the very same model stay true
        folder.discard_results()
    if stage == "prune":  # what an earlier training measured speaks of another net
        folder.manifest["stages"].pop("finetune", None)
        folder.metrics.unlink(missing_ok=True)
    density, ratio = kept_of(result.model, folder.input_spec)
    results = {
        **settings,
        "weights": sha256_of(folder.pruned),
        "density": density,
        "mac_ratio": ratio,
        "accuracies": {name: dataclasses.asdict(value) for name, value in result.accuracies.items()},
        "time_ratio": None if time is None else dataclasses.asdict(time),
        "too_hard": None if result.too_hard is None else dataclasses.asdict(result.too_hard),
    }
    folder.record(stage, results)
    # the state has done its duty
    folder.checkpoint.unlink(missing_ok=True)
    return Pruned(folder.path, density, ratio, result.accuracies, time, result.too_hard)


def kept_of(model: nn.Module, spec: InputSpec) -> tuple[float, float]:
    """Return density and effective MAC ratio of a pruned model."""
    macs = layer_macs(model, random_images(spec, 1))
    layers = named_modules_of(model, HetConv2d)
    density = sum(macs[name].kept for name in layers) / sum(macs[name].weights for name in layers)
    return density, sum(m.dense for m in macs.values()) / sum(m.effective for m in macs.values())


def not_faster(comparisons: Sequence[Comparison]) -> list[str]:
    """Return in words where a compact model is not faster than the dense one."""
    return [
        f"not {'shown to be ' if item.verdict.startswith('unclear') else ''}faster than the dense model in "
        f"{item.compact.runtime} at batch {item.compact.batch}: {item.verdict}, {item.compact.median_ms:.3g} against "
        f"{item.dense.median_ms:.3g} ms"
        for item in comparisons
        if item.verdict != "faster"
    ]
