"""The verb export: lower, write, verify, and compare with the dense model exported the same way."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetcompress.activity import counted
from hetcompress.artifacts import RunFolder
from hetcompress.comparisons import Comparison
from hetcompress.data import DataSource
from hetcompress.errors import UsageError, VerificationError
from hetcompress.evaluation import EVALUATION_BATCH, Accuracy, evaluate
from hetcompress.files import check_writable, replaced_together, write_text
from hetcompress.graphs import onnx_bytes
from hetcompress.latency import compare_latency
from hetcompress.lowering import fold_batch_norms
from hetcompress.machine import Machine, machine
from hetcompress.memory import release
from hetcompress.pipeline._common import DataSettings, check_classes, check_seconds, not_faster, open_run_data
from hetcompress.pipeline._int8 import INT8, Int8Report, Int8Settings, complaints_of, quantise, timed
from hetcompress.pipeline._report import lowered_pair
from hetcompress.planning import DEFAULT, Plan, PlanSettings
from hetcompress.run_files import run_option
from hetcompress.targets import EXPORT_TARGETS, Exported, Truth, export_model

__all__ = ["ExportReport", "export", "planned_in"]

SAMPLES = 256
"""Real images with which exported files are verified."""
UNTRAINED = "nothing was trained after pruning, which costs accuracy; `hetcompress finetune{}` wins it back"


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What was exported and how it compares with the dense model.

    Attributes:
        files: Every file, verified.
        dense_bytes: Size of the dense model written by the same target, by target.
        source_bytes: Size of the source file.
        plan: How forms were chosen, and what was given up.
        lowering_difference: Largest difference between pruned and lowered model.
        accuracies: Of the lowered model and of the ONNX file in onnxruntime; empty without data.
        test_note: What is particular about the test images.
        latency: Compact against dense; of the ONNX files where there is one.
        machine: Where latency was measured.
        complaints: What is not smaller or not faster, in words.
        int8: What was quantised; None if that was not asked for.
        untrained: What is to be said of accuracies where nothing was trained; empty where it was.
    """

    files: tuple[Exported, ...]
    dense_bytes: dict[str, int]
    source_bytes: int
    plan: dict[str, Any]
    lowering_difference: float
    accuracies: dict[str, Accuracy]
    test_note: str
    latency: tuple[Comparison, ...]
    machine: Machine
    complaints: tuple[str, ...]
    int8: Int8Report | None = None
    untrained: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "files": [file.to_json() for file in self.files],
            "accuracies": {name: dataclasses.asdict(value) for name, value in self.accuracies.items()},
            "latency": [comparison.to_json() for comparison in self.latency],
            "machine": dataclasses.asdict(self.machine),
            "complaints": list(self.complaints),
            "int8": None if self.int8 is None else self.int8.to_json(),
        }


def export(
    targets: Sequence[str] = ("onnx",),
    run: Path = Path("hetrun"),
    *,
    out: Path | None = None,
    data: DataSettings | None = None,
    int8: Int8Settings | None = None,
    arch: str | None = None,
    plan: PlanSettings | None = None,
    batches: Sequence[int] = (1, 16),
    threads: int = 1,
    seconds: float = 2.0,
    strict: bool = False,
    force: bool = False,
) -> ExportReport:
    """Lower the pruned model, write it, open what was written, and compare it with the dense model.

    Files take their names together at the end; where anything fails, those of an earlier export stay.

    Args:
        targets: Registered export targets.
        run: The run folder, pruned.
        out: Folder of the files; None is ``export/`` in the run folder.
        data: Where real images come from; None takes what fine-tuning used.
        int8: Also write ``model.int8.onnx`` beside the ONNX file, this way.
        arch: The user's own factory, where the run was made with one.
        plan: How the form of each layer is chosen; None is `DEFAULT`, in the runtime that opens the files.
        batches: Batch sizes for latency.
        threads: Threads for latency.
        seconds: Time to spend on each comparison; 0 skips latency.
        strict: Fail when a file is not smaller or not faster than the dense one.
        force: Replace files outside the run folder.

    Raises:
        UsageError: No target, an unknown one, a file in the way, or no time that can be spent.
        InputError: Nothing has been pruned yet, or the data is missing.
        VerificationError: A file does not compute what the model does; or `strict` and there are complaints.
    """
    _check_time(seconds, strict=strict)
    plan = plan or dataclasses.replace(DEFAULT, target=planned_in(targets))
    folder = RunFolder.open(run, factory=arch)
    images = data or _recorded_data(folder)
    paths = _paths(targets, out or folder.path / "export", int8, images, may_replace=out is None or force)
    example = torch.zeros(1, *folder.input_spec.size)
    source, truth = _to_verify(folder, images, example)
    release()
    latency, quantised = [], None
    written = (*paths.values(), folder.plan)
    with tempfile.TemporaryDirectory(prefix="hetcompress-") as temporary, replaced_together(written) as drafts:
        plain = {name: drafts[path] for name, path in paths.items() if name != INT8}
        references = {name: Path(temporary) / f"dense{path.suffix}" for name, path in plain.items()}
        # one model after the other, so that no two are in memory
        dense_bytes = {file.target: file.bytes for file in _write(_dense(folder), example, references)}
        planned = _planned(folder, plan)
        pair = _Pair(folder, planned.lowered.model, example)
        files = _write(pair.compact, example, plain, truth)
        accuracies = {} if source is None else _accuracies(pair, plain.get("onnx"), source)
        if int8 is not None and source is not None and images is not None:
            fp32 = _to_quantise(pair, plain["onnx"], Path(temporary), planned)
            quantised = quantise(
                folder, fp32, drafts[paths[INT8]], pair.compact, fp32=accuracies["after export"], tests=source,
                data=images, settings=int8, own_kernels=bool(planned.settings.kernels),
            )  # fmt: skip
            files.append(quantised.file)
            dense_bytes[INT8], accuracies["in int8"] = dense_bytes["onnx"], quantised.accuracy
        summary, difference = planned.summary(), planned.lowered.max_difference
        write_text(drafts[folder.plan], json.dumps({"schema": 1, **planned.to_json()}, indent=2) + "\n")
        if seconds > 0:
            both = (references.get("onnx") or _dense(folder), plain.get("onnx") or pair.compact)
            del pair, planned  # files need no model beside them
            release()
            runtime = "onnxruntime" if "onnx" in plain else "torch"
            size, runtimes = folder.input_spec.size, (runtime,)
            latency = compare_latency(*both, size, batches=batches, threads=threads, runtimes=runtimes, seconds=seconds)
            if quantised is not None:
                quantised = timed(quantised, references["onnx"], plain["onnx"], batches, threads, seconds)
        files = [dataclasses.replace(file, path=paths[file.target]) for file in files]
        quantised = quantised and dataclasses.replace(quantised, file=_of(INT8, files))
        complaints = _complaints(files, dense_bytes, latency, quantised)
        _refuse(complaints if strict else ())
    result = ExportReport(
        files=tuple(files),
        dense_bytes=dense_bytes,
        source_bytes=int(folder.manifest["source"]["bytes"]),
        plan=summary,
        lowering_difference=difference,
        accuracies=accuracies,
        test_note=source.test_note if source is not None else "",
        latency=tuple(latency),
        machine=machine(),
        complaints=tuple(complaints),
        int8=quantised,
        untrained=UNTRAINED.format(run_option(folder.path)) if accuracies and folder.stage("finetune") is None else "",
    )
    folder.record("export", result.to_json())
    return result


def _planned(folder: RunFolder, plan: PlanSettings) -> Plan:
    """Return the pruned model in the forms of a plan, with as little else in memory as can be."""
    release()
    planned = lowered_pair(folder, plan)[2]
    release()
    return planned


def planned_in(targets: Sequence[str]) -> str:
    """Return the runtime in which forms are timed for these export targets, if the user names none."""
    return "ort-cpu" if "onnx" in targets else "torch-cpu"


def _check_time(seconds: float, *, strict: bool) -> None:
    """Refuse a time that cannot be spent, or none where it decides."""
    check_seconds(seconds)
    if strict and seconds == 0:
        raise UsageError(
            "--strict", expected="time to see what is faster", found="--seconds 0", fix="leave --seconds out"
        )


def _refuse(complaints: Sequence[str]) -> None:
    """Fail if there is something to complain of."""
    if complaints:
        raise VerificationError(
            "export --strict", expected="smaller and faster", found="; ".join(complaints),
            fix="export without --strict, or prune to a harder target",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Where the dense model is, the lowered one, and an empty image."""

    folder: RunFolder
    compact: nn.Module
    example: Tensor


def _to_verify(folder: RunFolder, images: DataSettings | None, example: Tensor) -> tuple[DataSource | None, Truth]:
    """Open the data of a run that is pruned, after checking that the model was made for them, and run it on some."""
    pruned = folder.pruned_model()
    if images is None:
        return None, Truth.of(pruned, example)
    source = open_run_data(folder, images)
    check_classes(pruned, source, folder.input_spec)
    return source, Truth.of(pruned, example, next(iter(source.test_batches(SAMPLES)))[0].contiguous())


def _dense(folder: RunFolder) -> nn.Module:
    """Return the dense source with its batch norms folded."""
    return fold_batch_norms(folder.dense_model(), torch.zeros(1, *folder.input_spec.size))


def _write(model: nn.Module, example: Tensor, paths: Mapping[str, Path], truth: Truth | None = None) -> list[Exported]:
    """Write a model for each target; the files must compute the truth, which is the model's own where none is given."""
    return [
        export_model(name, model, example, path, truth=truth)
        for name, path in counted(paths.items(), "writing and verifying: file")
    ]


def _to_quantise(pair: _Pair, exported: Path, folder: Path, planned: Plan) -> Path:
    """Return an fp32 file that onnxruntime can quantise: without our operators."""
    if not planned.settings.kernels:
        return exported
    from hetcompress.targets.int8_kernels import ordinary

    path = folder / "ordinary.onnx"
    path.write_bytes(onnx_bytes(ordinary(pair.compact), pair.example))
    return path


def _accuracies(pair: _Pair, onnx: Path | None, source: DataSource) -> dict[str, Accuracy]:
    """Return the accuracy of the lowered model, and of its ONNX file."""
    accuracies = {"after lowering": evaluate(pair.compact, source.test_batches(EVALUATION_BATCH))}
    if onnx is not None:
        accuracies["after export"] = evaluate(
            EXPORT_TARGETS["onnx"]().open(onnx), source.test_batches(EVALUATION_BATCH)
        )
    return accuracies


def _paths(
    targets: Sequence[str], folder: Path, int8: Int8Settings | None, data: DataSettings | None, *, may_replace: bool
) -> dict[str, Path]:
    """Return the files to write, by target, after checking that they may be written."""
    if not targets:
        raise UsageError(
            "export",
            expected=f"a target: {', '.join('--' + name for name in EXPORT_TARGETS)}",
            found="none",
            fix="name one; --onnx is what onnxruntime opens",
        )
    paths = {name: folder / f"model{EXPORT_TARGETS[name].suffix}" for name in targets}
    if int8 is not None:
        if "onnx" not in paths:
            raise UsageError("export --int8", expected="--onnx beside it", found=", ".join(targets), fix="add --onnx")
        if data is None:
            raise UsageError(
                "export --int8", expected="data to calibrate on", found="a run that was made without",
                fix="pass --data NAME, and --data-root where it lies",
            )  # fmt: skip
        paths[INT8] = folder / "model.int8.onnx"
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}", expected="a folder", found="a file", fix="name another path")
    for path in paths.values():
        if path.exists() and not may_replace:
            raise UsageError(
                f"{path}", expected="no such file", found="one", fix="choose another --out, or pass --force"
            )
        check_writable(path)
    return paths


def _recorded_data(folder: RunFolder) -> DataSettings | None:
    recorded = (folder.stage("finetune") or {}).get("data")
    return None if recorded is None else DataSettings.from_json(recorded)


def _of(target: str, files: Sequence[Exported]) -> Exported:
    return next(file for file in files if file.target == target)


def _complaints(
    files: Sequence[Exported],
    dense_bytes: Mapping[str, int],
    latency: Sequence[Comparison],
    quantised: Int8Report | None,
) -> list[str]:
    """Return what is not smaller or not faster, in words."""
    larger = [
        f"{file.path.name} is not smaller than the dense model: {file.bytes:,} and {dense_bytes[file.target]:,} bytes"
        for file in files
        if file.bytes >= dense_bytes[file.target]
    ]
    return larger + not_faster(latency) + ([] if quantised is None else complaints_of(quantised))
