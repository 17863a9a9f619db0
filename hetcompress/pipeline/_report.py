"""The verb report: dense against compressed, in total and layer by layer."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hetcompress.artifacts import RunFolder
from hetcompress.comparisons import Comparison
from hetcompress.cost import count_executed, layer_macs
from hetcompress.files import write_text
from hetcompress.graphs import onnx_bytes
from hetcompress.latency import RUNTIMES, compare_latency
from hetcompress.lowering import fold_batch_norms
from hetcompress.machine import Machine, machine
from hetcompress.nn import HetConv2d
from hetcompress.pipeline._common import check_seconds, not_faster
from hetcompress.pipeline._time import as_aimed, not_met_now
from hetcompress.planning import DEFAULT, Plan, PlanSettings
from hetcompress.planning import plan as make_plan
from hetcompress.surgery import named_modules_of
from hetcompress.tensor_files import size_of_tensors

__all__ = ["LayerReport", "Report", "lowered_pair", "recorded_accuracies", "report"]


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One convolution or linear layer.

    Attributes:
        name: Its name in the model.
        weights: Weights of the dense layer.
        kept: Weights inside the mask.
        macs_dense: MACs of the dense layer on one image.
        macs_effective: MACs inside the mask.
        macs_executed: MACs of the operators that really run.
        form: The lowering that was chosen; "not converted" for other layers.
        shapes: How many kernels have each shape, drawn row by row ("#.#/.#./#.#"), most frequent first.
        refused: Why the other lowerings were not taken.
    """

    name: str
    weights: int
    kept: int
    macs_dense: int
    macs_effective: int
    macs_executed: int
    form: str
    shapes: dict[str, int]
    refused: dict[str, str]

    @property
    def density(self) -> float:
        """Kept over all weights."""
        return self.kept / self.weights


@dataclasses.dataclass(frozen=True)
class Report:
    """Dense against compressed.  MACs are of one image; one multiply-accumulate counts 1.

    Attributes:
        architecture: The spec of the model.
        input_size: Channels, height, width.
        parameters_dense: Parameters of the source.
        parameters: Parameters of the lowered model (batch norms folded).
        macs_dense: Of convolutions and linear layers.
        macs_effective: Counting the mask.
        macs_executed: Of the lowered model's operators, counted by fvcore.
        density: Kept over all weights of the converted layers.
        bytes: Sizes on disk: source file, dense and compact weights, dense and compact ONNX.
        accuracies: Top-1 in percent, by when it was measured; empty without fine-tuning.
        test_note: What is particular about the test images.
        latency: Interleaved comparisons; empty if none was asked for.
        machine: Where latency was measured.
        plan: How forms were chosen, and what was given up.
        max_difference: Between pruned and lowered model.
        uncounted: Operators that fvcore could not count, and how often they occur.
        layers: Every convolution and linear layer.
        not_met: In words, where a target of time that was reached is not met now.
    """

    architecture: str
    input_size: tuple[int, int, int]
    parameters_dense: int
    parameters: int
    macs_dense: int
    macs_effective: int
    macs_executed: int
    density: float
    bytes: dict[str, int]
    accuracies: dict[str, float]
    test_note: str
    latency: tuple[Comparison, ...]
    machine: Machine
    plan: dict[str, Any]
    max_difference: float
    uncounted: dict[str, int]
    layers: tuple[LayerReport, ...]
    not_met: tuple[str, ...] = ()

    @property
    def mac_ratio_effective(self) -> float:
        """Dense over effective MACs."""
        return self.macs_dense / self.macs_effective

    @property
    def mac_ratio_executed(self) -> float:
        """Dense over executed MACs."""
        return self.macs_dense / self.macs_executed

    @property
    def complaints(self) -> list[str]:
        """What is not smaller or not faster, in words."""
        before, after = self.bytes["dense onnx"], self.bytes["compact onnx"]
        larger = (
            [f"not smaller than the dense model in ONNX: {after:,} and {before:,} bytes"] if after >= before else []
        )
        return [*larger, *not_faster(self.latency), *self.not_met]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, ratios and verdicts among them."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "complaints": self.complaints,
            "mac_ratio_effective": self.mac_ratio_effective,
            "mac_ratio_executed": self.mac_ratio_executed,
            "latency": [comparison.to_json() for comparison in self.latency],
            "machine": dataclasses.asdict(self.machine),
            "layers": [{**dataclasses.asdict(layer), "density": layer.density} for layer in self.layers],
        }

    def to_csv(self) -> str:
        """Return one row for each layer."""
        text = io.StringIO()
        columns = [
            "name",
            "form",
            "weights",
            "kept",
            "density",
            "macs_dense",
            "macs_effective",
            "macs_executed",
            "shapes",
        ]
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for layer in self.layers:
            shapes = " ".join(f"{shape}:{kernels}" for shape, kernels in layer.shapes.items())
            writer.writerow({**dataclasses.asdict(layer), "density": f"{layer.density:.6f}", "shapes": shapes})
        return text.getvalue()


def shape_histogram(layer: HetConv2d) -> dict[str, int]:
    """Return how many kernels of a layer have each shape, drawn row by row, most frequent first."""
    counts: dict[str, int] = {}
    sizes = layer.channel_groups.sizes()
    for row, row_sizes in zip(layer.kernel_shapes.tolist(), sizes.tolist(), strict=True):
        for shape, size in zip(row, row_sizes, strict=True):
            drawn = "/".join("".join("#" if tap else "." for tap in line) for line in shape)
            counts[drawn] = counts.get(drawn, 0) + int(size)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def lowered_pair(run: RunFolder, settings: PlanSettings) -> tuple[nn.Module, nn.Module, Plan]:
    """Return the dense source, the pruned model, and the plan of its lowering."""
    dense, pruned = run.dense_model(), run.pruned_model()
    return dense, pruned, make_plan(dense, pruned, torch.zeros(1, *run.input_spec.size), as_aimed(run, settings))


def recorded_accuracies(run: RunFolder) -> tuple[dict[str, float], str]:
    """Return what fine-tuning and export measured, in percent, and the note on the test images."""
    percents: dict[str, float] = {}
    note = ""
    for stage in ("finetune", "export"):
        recorded = run.stage(stage) or {}
        note = recorded.get("test_note") or note
        for when, accuracy in recorded.get("accuracies", {}).items():
            percents[when] = 100 * accuracy["correct"] / accuracy["total"]
    return percents, note


def report(
    run: Path = Path("hetrun"),
    *,
    arch: str | None = None,
    plan: PlanSettings = DEFAULT,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    runtimes: Sequence[str] = RUNTIMES,
    seconds: float = 2.0,
) -> Report:
    """Compare the pruned model, lowered, with its dense source, and write report.json and layers.csv.

    Args:
        run: The run folder, pruned.
        arch: The user's own factory, where the run was made with one.
        plan: How the form of each layer is chosen.
        batches: Batch sizes for latency.
        threads: Threads for latency.
        runtimes: Runtimes for latency; none skips it.
        seconds: Time to spend on each comparison; 0 skips latency.

    Raises:
        UsageError: The time is negative or not finite.
        InputError: Nothing has been pruned yet.
        VerificationError: The lowered model computes something else than the pruned one.
    """
    check_seconds(seconds)
    folder = RunFolder.open(run, factory=arch)
    size = folder.input_spec.size
    example = torch.zeros(1, *size)
    source_model, pruned, planned = lowered_pair(folder, plan)
    dense, lowered = fold_batch_norms(source_model, example), planned.lowered
    macs = layer_macs(pruned, example)
    executed = count_executed(lowered.model, example)
    left = layer_macs(lowered.model, example)  # filters that nothing reads are gone
    converted = named_modules_of(pruned, HetConv2d)
    accuracies, note = recorded_accuracies(folder)
    forms = {layer.name: layer for layer in lowered.layers}
    layers = tuple(
        LayerReport(
            name, cost.weights, cost.kept, cost.dense, cost.effective,
            forms[name].macs_executed if name in forms else left[name].dense,
            forms[name].form if name in forms else "not converted",
            shape_histogram(converted[name]) if name in converted else {},
            forms[name].refused if name in forms else {},
        )
        for name, cost in macs.items()
    )  # fmt: skip
    latency = compare_latency(
        dense, lowered.model, size, batches=batches, threads=threads, runtimes=runtimes if seconds else (),
        seconds=seconds,
    )  # fmt: skip
    source = folder.manifest["source"]
    result = Report(
        architecture=folder.manifest["architecture"]["spec"],
        input_size=size,
        parameters_dense=sum(p.numel() for p in source_model.parameters()),
        parameters=sum(p.numel() for p in lowered.model.parameters()),
        macs_dense=sum(cost.dense for cost in macs.values()),
        macs_effective=sum(cost.effective for cost in macs.values()),
        macs_executed=executed.macs,
        density=sum(macs[n].kept for n in converted) / sum(macs[n].weights for n in converted),
        bytes={
            "source file": source["bytes"],
            "dense weights": _weights_bytes(dense),
            "compact weights": _weights_bytes(lowered.model),
            "dense onnx": len(onnx_bytes(dense, example)),
            "compact onnx": len(onnx_bytes(lowered.model, example)),
        },
        accuracies=accuracies,
        test_note=note,
        latency=tuple(latency),
        machine=machine(),
        plan=planned.summary(),
        max_difference=lowered.max_difference,
        uncounted=executed.uncounted,
        layers=layers,
        not_met=not_met_now(folder, latency),
    )
    write_text(folder.path / "report" / "report.json", json.dumps({"schema": 1, **result.to_json()}, indent=2) + "\n")
    write_text(folder.path / "report" / "layers.csv", result.to_csv())
    return result


def _weights_bytes(model: nn.Module) -> int:
    return size_of_tensors(model.state_dict())
