"""What can be timed: ONNX files of any origin, models, torch programs, each with the input that it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hetcompress import kernels
from hetcompress.errors import InputError, UsageError
from hetcompress.graphs import onnx_bytes, ort_session, quiet, readable
from hetcompress.latency import Prepared, prepare_onnx, prepare_torch, random_images, torch_runner

__all__ = ["Candidate", "model_candidate", "onnx_candidate", "program_candidate"]

OnnxModel = Path | bytes
"""A file, or what one would hold."""

ONNX_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that can be timed.

    Attributes:
        name: What it is called in tables; differs from the others'.
        bytes: Of the file, with the files of weights beside it; of a model, of what is run: the ONNX file that is made
            of it, or its tensors in torch.
        shape: Sizes of the input after the batch, usually channels, height, width.
        dtype: Of the input.
        batch: The one batch size that it takes; None for any.
        runtime: "onnxruntime" or "torch".
        prepare: Called with the number of threads; opens the model.
        source: What onnxruntime opens, a file or its bytes; None in torch.
    """

    name: str
    bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch: int | None
    runtime: str
    prepare: Callable[[int], Prepared]
    source: OnnxModel | None = None

    def images(self, batch: int) -> Tensor:
        """Return a batch of seeded random inputs.

        Raises:
            UsageError: The model takes another batch size, or so many inputs do not fit memory.
        """
        if self.batch not in (None, batch):
            raise UsageError(
                f"{self.name} at batch {batch}", expected=f"batches of {self.batch}, as the file says",
                found=str(batch), fix=f"pass --batch {self.batch}, or export the model with a free batch size",
            )  # fmt: skip
        numbers = random_images(batch, self.shape)
        if not self.dtype.is_floating_point:
            numbers = (32 * numbers.abs()).clamp_max(127)
        return numbers.to(self.dtype)


def onnx_candidate(name: str, path: Path, input_size: tuple[int, ...] | None = None) -> Candidate:
    """Return what runs an ONNX file in onnxruntime.

    Args:
        name: For tables.
        path: A file with one input; its first axis is the batch.
        input_size: Sizes after the batch, where the file leaves them open.

    Raises:
        InputError: The file is broken, or has several inputs, or one that is no tensor of numbers.
        UsageError: Sizes are open and none are given, or others than the file's.
    """
    inputs = ort_session(path, 1).get_inputs()
    if len(inputs) != 1:
        names = ", ".join(side.name for side in inputs[:5])
        raise InputError(
            f"file {path}",
            expected="a model with one input",
            found=f"{len(inputs)} ({names})",
            fix="export the part that takes images",
        )
    dtype, sizes = ONNX_TYPES.get(inputs[0].type), inputs[0].shape
    if dtype is None or not sizes:
        raise InputError(
            f"file {path}",
            expected="a batch of numbers as input",
            found=f"{inputs[0].type} of {sizes}",
            fix="export the part that takes images",
        )
    batch, *rest = (size if isinstance(size, int) and size > 0 else None for size in sizes)
    shape = _filled(f"file {path}", rest, input_size)
    return Candidate(
        name, _bytes_of(path), shape, dtype, batch, "onnxruntime", lambda threads: prepare_onnx(path, threads), path
    )


def model_candidate(name: str, model: nn.Module, image_size: tuple[int, ...], runtime: str) -> Candidate:
    """Return what runs a model, exported to ONNX first unless the runtime is torch.

    Args:
        name: For tables.
        model: On the CPU; takes one batch of images.
        image_size: Channels, height, width.
        runtime: "onnxruntime" or "torch".

    Raises:
        HetCompressError: The model cannot be exported.
    """
    if runtime == "torch":
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        return Candidate(
            name, size, image_size, torch.float32, None, runtime, lambda _: prepare_torch(model, image_size)
        )
    data = onnx_bytes(model, torch.zeros(1, *image_size))
    return Candidate(
        name, len(data), image_size, torch.float32, None, runtime, lambda threads: prepare_onnx(data, threads), data
    )


def program_candidate(
    name: str, path: Path, input_size: tuple[int, ...] | None = None, *, notes: list[str] | None = None
) -> Candidate:
    """Return what runs a program of `torch.export` in torch.

    Opening one can run code that the file holds.

    Args:
        name: For tables.
        path: A .pt2 file with one input.
        input_size: Sizes after the batch, where the file leaves them open.
        notes: Takes what is to be said besides.

    Raises:
        InputError: The file is broken, or has several inputs.
        UsageError: Sizes are open and none are given, or others than the file's.
    """
    with readable(path), quiet():
        program = torch.export.load(path)
    ready, reason = kernels.available()
    ours = any(str(node.target).startswith(f"{kernels.DOMAIN}.") for node in program.graph.nodes)
    if notes is not None and ours and not ready:
        notes.append(f"{name} has layers in our kernel, which run dense here: {reason}")
    wanted = program.graph_signature.user_inputs
    if len(wanted) != 1:
        raise InputError(
            f"file {path}",
            expected="a model with one input",
            found=f"{len(wanted)}",
            fix="export the part that takes images",
        )
    value: Any = next(node.meta["val"] for node in program.graph.nodes if node.name == wanted[0])
    batch, *rest = (size if type(size) is int else None for size in value.shape)
    shape = _filled(f"file {path}", rest, input_size)
    module = program.module()

    def prepare(_threads: int) -> Prepared:
        return lambda images: (torch_runner(module, images), "torch")

    return Candidate(name, path.stat().st_size, shape, value.dtype, batch, "torch", prepare)


def _filled(where: str, sizes: list[int | None], given: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the sizes of an input, the open ones from what the user gave."""
    known = tuple(size for size in sizes if size is not None)
    if len(known) == len(sizes) and given in (None, known):
        return known
    text = "x".join("?" if size is None else str(size) for size in sizes)
    if given is None:
        raise UsageError(where, expected="known sizes after the batch", found=text, fix="pass --input-size")
    if len(given) != len(sizes) or any(size not in (None, own) for size, own in zip(sizes, given, strict=True)):
        asked = "x".join(str(size) for size in given)
        raise UsageError(
            where,
            expected=f"an input of {text}, as the file says",
            found=f"--input-size {asked}",
            fix="leave --input-size out, or pass the file's",
        )
    return given


def _bytes_of(path: Path) -> int:
    """Return the bytes of an ONNX file and of the files of weights that it names."""
    import onnx

    try:
        initializers = onnx.load(path, load_external_data=False).graph.initializer
    except Exception:  # noqa: BLE001  onnxruntime has opened it: another format of its own, in one file
        initializers = []
    names = {entry.value for tensor in initializers for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(path.parent / str(name) for name in names)]
    return sum(file.stat().st_size for file in files if file.is_file())
