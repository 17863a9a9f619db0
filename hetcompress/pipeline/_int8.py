"""The int8 part of the verb export: calibrate, quantise, verify, measure."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetcompress.artifacts import RunFolder
from hetcompress.benchmarking import Timing, side_by_side
from hetcompress.candidates import onnx_candidate
from hetcompress.comparisons import verdict_of
from hetcompress.data import DataSource
from hetcompress.errors import InputError, UsageError
from hetcompress.evaluation import EVALUATION_BATCH, Accuracy, evaluate
from hetcompress.files import write_atomically
from hetcompress.machine import machine
from hetcompress.pipeline._common import DataSettings, open_run_data
from hetcompress.targets import EXPORT_TARGETS, Agreement, Exported, Runner, Truth, verify
from hetcompress.targets.int8 import Kernels, Quantiser, count_kernels, scheme_for
from hetcompress.targets.int8_choice import Choice, choose_layers, sensitivities
from hetcompress.targets.onnx import library_for

__all__ = ["INT8", "Int8Report", "Int8Settings", "complaints_of", "quantise", "timed"]

CALIBRATION_BATCH = 32
RANKING_IMAGES = 64
INT8 = "int8"


@dataclasses.dataclass(frozen=True)
class Int8Settings:
    """How the int8 file is made.

    Attributes:
        drop: Points of accuracy that int8 may cost against the fp32 file.
        images: Training images for calibration.
    """

    drop: float = 0.3
    images: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.drop <= 100:
            raise UsageError("--int8-drop", expected="points from 0 to 100", found=f"{self.drop:g}")
        if self.images < 1:
            raise UsageError("--int8-images", expected="a number of at least 1", found=str(self.images))


@dataclasses.dataclass(frozen=True)
class Int8Report:
    """What was quantised and how it compares with fp32.

    Attributes:
        file: The file; differences and agreement are to the fp32 model, on real images alone.
        fp32: Accuracy of the fp32 ONNX file.
        accuracy: Of the int8 file, on the same images.
        fp32_layers: Layers that stay fp32 for the sake of accuracy, most sensitive first.
        tried: Percent of accuracy by number of layers left in fp32.
        kernels: What onnxruntime runs on this processor.
        unfused: Convolutions that were quantised, but run in fp32 kernels.
        calibration_images: Training images that the ranges were taken from.
        timings: Dense fp32, compressed fp32 and int8 side by side, for each batch size; empty if none was asked for.
    """

    file: Exported
    fp32: Accuracy
    accuracy: Accuracy
    fp32_layers: tuple[str, ...]
    tried: dict[int, float]
    kernels: Kernels
    unfused: int
    calibration_images: int
    timings: tuple[Timing, ...] = ()

    @property
    def drop(self) -> float:
        """Points of accuracy that int8 costs; below 0 it gains."""
        return self.fp32.percent - self.accuracy.percent

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**dataclasses.asdict(self), "file": self.file.to_json(), "drop": self.drop}


def quantise(
    folder: RunFolder,
    source: Path,
    path: Path,
    model: nn.Module,
    *,
    fp32: Accuracy,
    tests: DataSource,
    data: DataSettings,
    settings: Int8Settings,
    own_kernels: bool = False,
) -> Int8Report:
    """Quantise an exported ONNX file, with as many layers in fp32 as its accuracy needs, and verify what was written.

    Args:
        folder: The run, for size and normalisation of the images.
        source: The fp32 file.
        path: The int8 file.
        model: What the fp32 file was made from.
        fp32: Accuracy of the fp32 file.
        tests: Test images.
        data: Where training images for calibration come from.
        settings: How much accuracy may be lost, and how many images to calibrate on.
        own_kernels: Whether convolutions with many zeros run in our own kernel.

    Raises:
        InputError: There are no training images.
        NothingToDoError: The accuracy cannot be kept.
        VerificationError: The file gives outputs of another form, or that are not finite.
    """
    batches = _calibration(folder, data, settings.images)
    samples = next(iter(tests.test_batches(256)))[0].contiguous()
    scheme = scheme_for(machine())
    if own_kernels:  # which takes uint8 on every processor
        scheme = dataclasses.replace(scheme, activations="uint8")
    open_file = EXPORT_TARGETS["onnx"]().open
    choices: list[Choice] = []
    agreements: list[Agreement] = []

    def write(temporary: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="hetcompress-") as work:
            quantiser = Quantiser(source, batches, scheme, Path(work), own_kernels=own_kernels)
            images, scratch = torch.cat(list(batches))[:RANKING_IMAGES], Path(work) / "one.onnx"
            choice = choose_layers(
                quantiser, temporary, lowest=fp32.percent - settings.drop,
                measure=lambda file: evaluate(open_file(file), tests.test_batches(EVALUATION_BATCH)),
                rank=lambda: list(sensitivities(quantiser, open_file(source), open_file, images, scratch)),
            )  # fmt: skip
        choices.append(choice)
        agreements.append(_verified(open_file(temporary), model, samples))

    write_atomically(path, write)
    choice, agreement, kernels = choices[0], agreements[0], count_kernels(path)
    details = {
        "activations": scheme.activations, "weights": f"int8 per channel, {scheme.weight_bits} bits",
        "int8 convolutions": kernels.int8_convolutions, "fp32 convolutions": kernels.fp32_convolutions,
        **library_for(path.read_bytes()),
    }  # fmt: skip
    file = Exported(
        path, INT8, path.stat().st_size, agreement.max_difference, agreement.relative_difference,
        agreement.argmax_agreement, agreement.batch_sizes, details,
    )  # fmt: skip
    images_used = sum(len(batch) for batch in batches)
    return Int8Report(
        file, fp32, choice.accuracy, tuple(layer.name for layer in choice.fp32_layers), choice.tried, kernels,
        max(0, kernels.fp32_convolutions - sum(layer.convolution for layer in choice.fp32_layers)), images_used,
    )  # fmt: skip


def _verified(runner: Runner, model: nn.Module, samples: Tensor) -> Agreement:
    """Check that the file runs at every batch size; its distance from fp32 is measured and not judged."""
    truth = Truth.of(model, samples, samples)
    checked = verify(runner, truth, where="export --int8", tolerance=math.inf)
    # random images lie outside of the calibrated ranges, so only real ones are compared
    expected, found = torch.cat(truth.of_samples), runner(samples)
    difference = float((found - expected).abs().max())
    same = float((found.argmax(1) == expected.argmax(1)).double().mean())
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return Agreement(difference, difference / scale, same, checked.batch_sizes, len(samples))


def _calibration(folder: RunFolder, data: DataSettings, images: int) -> list[Tensor]:
    """Return training images as they are, without augmentation."""
    source = open_run_data(folder, dataclasses.replace(data, crop_padding=0, flip=False, cutout=0))
    size = min(CALIBRATION_BATCH, images, source.train_size)
    batches: list[Tensor] = []
    if size:
        for batch, _ in source.train_batches(size, seed=0, epoch=0):
            batches.append(batch.contiguous())
            if len(batches) * size >= images:
                break
    if not batches:
        raise InputError(
            f"data {data.name}",
            expected="training images to calibrate int8 on",
            found="none",
            fix="name other data with --data",
        )
    return batches


def timed(
    report: Int8Report, dense: Path, compressed: Path, batches: Sequence[int], threads: int, seconds: float
) -> Int8Report:
    """Return the report with latencies: the dense and the compressed fp32 file and the int8 file side by side."""
    files = {"dense": dense, "compressed": compressed, INT8: report.file.path}
    candidates = [onnx_candidate(name, path) for name, path in files.items()]
    timings = [
        timing
        for batch in batches
        for timing in side_by_side(candidates, batch=batch, threads=threads, seconds=seconds)
    ]
    return dataclasses.replace(report, timings=tuple(timings))


def complaints_of(report: Int8Report) -> list[str]:
    """Return what int8 was expected to do and did not."""
    complaints = []
    if report.unfused:
        complaints.append(f"{report.unfused} convolutions of the int8 file run in fp32 kernels here")
    found = {(timing.name, timing.latency.batch): timing for timing in report.timings}
    for (name, batch), other in found.items():
        ours = found[INT8, batch]
        # both were timed in turns with the dense file, so their ratios to it say how they compare
        surely = verdict_of(ours.ratio_low / other.ratio_high, ours.ratio_high / other.ratio_low)
        if name != INT8 and surely != "faster":
            complaints.append(
                f"int8 is not surely faster than {name} fp32 at batch {batch}: {ours.latency.median_ms:.3g} against "
                f"{other.latency.median_ms:.3g} ms"
            )
    return complaints
