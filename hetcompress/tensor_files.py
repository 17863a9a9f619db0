"""Safetensors files, written tensor by tensor.

::

    8 bytes    length of the header, little-endian
    header     JSON: {name: {"dtype", "shape", "data_offsets"}, "__metadata__": {text: text}}, with spaces to 8 bytes
    data       the tensors one after another, wider types first, so that each begins at a multiple of its own size

The library's own writers hold a second and third copy of all tensors in memory, and hide the `OSError` of a full disk.
Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hetcompress.errors import InputError

__all__ = ["size_of_tensors", "write_tensors"]

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""Of all types that both torch and the format have had for long."""


def _in_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in _in_order(tensors):
        begin, end = end, end + tensor.nbytes
        if tensor.dtype not in NAMES:
            raise InputError(
                f"tensor {name}", expected=f"one of {', '.join(str(kind) for kind in NAMES)}", found=str(tensor.dtype),
                fix="convert it in the checkpoint",
            )  # fmt: skip
        fields[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def size_of_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> int:
    """Return the bytes of the file that `write_tensors` would write."""
    return len(_header(tensors, metadata or {})) + sum(tensor.nbytes for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors into a file, in place of what it holds.

    Args:
        path: The file; wrap the call in `hetcompress.files.write_atomically` to replace it in one step.
        tensors: Of any device and memory order.
        metadata: Texts by name.

    Raises:
        OSError: The disk is full, or the file cannot be written.
        InputError: The format has no place for a type.
    """
    with path.open("wb") as file:
        file.write(_header(tensors, metadata or {}))
        for _, tensor in _in_order(tensors):
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(plain.numpy().data)
