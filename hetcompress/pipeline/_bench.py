"""The verb bench: the latency of any models, side by side in one run."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hetcompress.artifacts import RunFolder
from hetcompress.benchmarking import Timing, side_by_side
from hetcompress.candidates import Candidate, model_candidate, onnx_candidate, program_candidate
from hetcompress.errors import InputError, UsageError
from hetcompress.latency import RUNTIMES
from hetcompress.lowering import fold_batch_norms
from hetcompress.machine import Machine, machine
from hetcompress.models import load_model
from hetcompress.pipeline._lowered import as_exported
from hetcompress.profiling import OperatorTime, profile_onnx

__all__ = ["Bench", "BenchItem", "Profile", "bench"]

WORDS = ("dense", "lowered")
DEFAULT_BATCHES = (1, 16)


@dataclasses.dataclass(frozen=True)
class BenchItem:
    """A model that was timed.

    Attributes:
        name: In the timings.
        source: What the user named: a file, or "dense" or "lowered" of the run folder.
        bytes: See `hetcompress.candidates.Candidate`, as for the next two.
        input: Sizes of the input after the batch.
        runtime: "onnxruntime" or "torch".
    """

    name: str
    source: str
    bytes: int
    input: tuple[int, ...]
    runtime: str


@dataclasses.dataclass(frozen=True)
class Profile:
    """Where the time of a model goes.

    Attributes:
        name: Of the model.
        batch: Images in a batch.
        threads: Threads inside an operator.
        operators: By kind, those that take most time first.
    """

    name: str
    batch: int
    threads: int
    operators: tuple[OperatorTime, ...]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Latencies, side by side.

    Attributes:
        items: The models, in the order given; ratios are to the first.
        timings: For each number of threads and batch size, one for each model.
        machine: Where they were measured.
        notes: What was assumed about checkpoints, and how the run's model was lowered, in words.
        profiles: Where time goes, for each timing in onnxruntime, if that was asked for.
    """

    items: tuple[BenchItem, ...]
    timings: tuple[Timing, ...]
    machine: Machine
    notes: tuple[str, ...] = ()
    profiles: tuple[Profile, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "items": [{**dataclasses.asdict(item), "input": list(item.input)} for item in self.items],
            "timings": [timing.to_json() for timing in self.timings],
            "machine": self.machine.to_json(),
            "notes": list(self.notes),
            "profiles": [dataclasses.asdict(profile) for profile in self.profiles],
        }


def bench(
    items: Sequence[str | Path],
    run: Path = Path("hetrun"),
    *,
    batches: Sequence[int] | None = None,
    threads: Sequence[int] = (1,),
    seconds: float = 1.0,
    runtime: str | None = None,
    input_size: tuple[int, ...] | None = None,
    arch: str | None = None,
    arch_arguments: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    operators: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Time models in interleaved rounds and compare each with the first.

    Args:
        items: ONNX files of any origin, checkpoints, .pt2 programs, or the words "dense" and "lowered" for the models
            of the run folder.
        run: The run folder; opened only for those words.
        batches: Batch sizes; None is 1 and 16, or the one size that a file allows.
        threads: Numbers of threads.
        seconds: Time to spend on each model at each batch size and number of threads.
        runtime: "onnxruntime" or "torch" for all; None runs .pt2 programs in torch and the rest in onnxruntime.
        input_size: Sizes after the batch, where a file leaves them open.
        arch: What builds the model of a checkpoint, or of a run that was made with the user's own factory.
        arch_arguments: Keyword arguments of the factory, for checkpoints.
        trust_pickle: Open .pt2 programs and pickles, which can run code.
        operators: Also profile what runs in onnxruntime, operator by operator.
        announce: Told what is timed next.

    Raises:
        UsageError: An item, batch size or runtime that makes no sense.
        InputError: A file is missing, broken, or takes another input than one batch.
    """
    _check(items, runtime, [*(batches or []), *threads], seconds, input_size)
    opener = _Opener(run, runtime, input_size, arch, arch_arguments, trust_pickle)
    sources = [str(item) for item in items]
    candidates = [opener.open(source, name) for source, name in zip(sources, _names(sources), strict=True)]
    timings: list[Timing] = []
    profiles: list[Profile] = []
    for count in threads:
        for batch in batches or _batches(candidates):
            announce(f"timing {len(candidates)} models, threads {count}, batch {batch}")
            timings += side_by_side(candidates, batch=batch, threads=count, seconds=seconds)
            profiles += _profiles(candidates, batch, count, seconds) if operators else []
    described = [
        BenchItem(candidate.name, source, candidate.bytes, candidate.shape, candidate.runtime)
        for candidate, source in zip(candidates, sources, strict=True)
    ]
    notes = [*opener.notes, *_unlike(candidates), *(_unprofiled(candidates) if operators else [])]
    return Bench(tuple(described), tuple(timings), machine(), tuple(notes), tuple(profiles))


def _profiles(candidates: Sequence[Candidate], batch: int, threads: int, seconds: float) -> list[Profile]:
    return [
        Profile(one.name, batch, threads, tuple(profile_onnx(one.source, one.images(batch), threads, seconds=seconds)))
        for one in candidates
        if one.source is not None
    ]


def _unprofiled(candidates: Sequence[Candidate]) -> list[str]:
    """Return in words which models have no profile."""
    return [
        f"{one.name} runs in torch, whose operators are not shown; --runtime onnxruntime shows those of models"
        for one in candidates
        if one.source is None
    ]


def _unlike(candidates: Sequence[Candidate]) -> list[str]:
    """Return in words which models do other work than the first, whatever their time ratios say."""

    def takes(one: Candidate) -> str:
        return f"{'x'.join(map(str, one.shape))} {str(one.dtype).removeprefix('torch.')}"

    first = candidates[0]
    return [
        f"{other.name} takes {takes(other)}, not {takes(first)} as {first.name} does: their times are of different work"
        for other in candidates[1:]
        if (other.shape, other.dtype) != (first.shape, first.dtype)
    ]


def _check(
    items: Sequence[str | Path],
    runtime: str | None,
    counts: Sequence[int],
    seconds: float,
    input_size: Sequence[int] | None,
) -> None:
    if not items:
        raise UsageError(
            "bench", expected="at least one model", found="none", fix="name run folders, .onnx or .pt2 files"
        )
    if runtime is not None and runtime not in RUNTIMES:
        raise UsageError("--runtime", expected=f"one of {', '.join(RUNTIMES)}", found=f"'{runtime}'")
    if min(counts) < 1:
        raise UsageError(
            "--batch and --threads", expected="numbers of at least 1", found=str(min(counts)), fix="leave it out"
        )
    if input_size is not None and min(input_size) < 1:
        raise UsageError("--input-size", expected="positive numbers", found=" ".join(map(str, input_size)))
    if not 0 < seconds < float("inf"):
        raise UsageError("--seconds", expected="a positive number", found=f"{seconds:g}")


def _names(sources: Sequence[str]) -> list[str]:
    """Return short names that differ: file names, else whole paths; a model that is named twice gets a number."""
    short = [Path(source).name for source in sources]
    clear = [name if len({s for s, n in zip(sources, short, strict=True) if n == name}) == 1 else source
             for source, name in zip(sources, short, strict=True)]  # fmt: skip
    return [
        name if clear.count(name) == 1 else f"{name} ({clear[: index + 1].count(name)})"
        for index, name in enumerate(clear)
    ]


def _batches(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    fixed = next((candidate.batch for candidate in candidates if candidate.batch is not None), None)
    return DEFAULT_BATCHES if fixed is None else (fixed,)


class _Opener:
    """Opens what the user named; the models of the run folder once."""

    def __init__(
        self,
        run: Path,
        runtime: str | None,
        input_size: tuple[int, ...] | None,
        arch: str | None,
        arch_arguments: Mapping[str, Any] | None,
        trust_pickle: bool,
    ) -> None:
        self.run, self.runtime, self.input_size = run, runtime, input_size
        self.arch, self.arguments, self.trust = arch, arch_arguments, trust_pickle
        self.notes: list[str] = []

    def open(self, source: str, name: str) -> Candidate:
        """Return what times one item."""
        if source in WORDS:
            return self._of_run(source, name)
        path = Path(source)
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            near = difflib.get_close_matches(source, WORDS, n=1)
            fix = f"did you mean '{near[0]}'?" if near else "check the path"
            raise InputError(f"model {source}", expected=f"a file, or {' or '.join(WORDS)}", found=found, fix=fix)
        if path.suffix in (".onnx", ".ort"):
            self._runs_in("onnxruntime", path)
            return onnx_candidate(name, path, self.input_size)
        return self._program(path, name) if path.suffix == ".pt2" else self._checkpoint(path, name)

    def _runs_in(self, runtime: str, path: Path) -> None:
        if self.runtime not in (None, runtime):
            raise UsageError(
                f"--runtime {self.runtime}", expected=f"{runtime}, in which {path} runs", found=self.runtime,
                fix="leave --runtime out: each file then runs in its own",
            )  # fmt: skip

    def _of_run(self, word: str, name: str) -> Candidate:
        folder = RunFolder.open(self.run, factory=self.arch)
        size = folder.input_spec.size
        if word == "lowered":
            model, how = as_exported(folder)
            self.notes.append(f"lowered: {how}")
        else:
            model = fold_batch_norms(folder.dense_model(), torch.zeros(1, *size))
        return model_candidate(name, model, size, self.runtime or "onnxruntime")

    def _program(self, path: Path, name: str) -> Candidate:
        self._runs_in("torch", path)
        if not self.trust:
            raise InputError(
                f"file {path}", expected="--trust-pickle beside a .pt2 program, since opening one can run code",
                found="none", fix="pass it for a file that you made, or export as ONNX",
            )  # fmt: skip
        return program_candidate(name, path, self.input_size, notes=self.notes)

    def _checkpoint(self, path: Path, name: str) -> Candidate:
        loaded = load_model(path, arch=self.arch, arguments=self.arguments, trust_pickle=self.trust)
        self.notes += loaded.notes
        size = self.input_size or (loaded.input_spec.size if loaded.input_spec is not None else None)
        if size is None or len(size) != 3:
            raise UsageError(
                f"checkpoint {path}", expected="the size of its images", found="none" if size is None else str(size),
                fix="pass --input-size CHANNELS HEIGHT WIDTH",
            )  # fmt: skip
        model = fold_batch_norms(loaded.model, torch.zeros(1, *size))
        return model_candidate(name, model, size, self.runtime or "onnxruntime")
