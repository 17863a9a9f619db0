"""An ONNX model as bytes, with no more than one copy of its weights.

protobuf's own serialisation makes two, one after the other.  A message is its fields side by side, each behind its
number and its length, so the large ones, the weights, can be written one by one::

    model = field ... field, 7 length graph          graph = field ... field, 5 length tensor, ..., 5 length tensor
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["serialised_"]

GRAPH, INITIALIZER = 7, 5
"""Numbers of the fields in onnx.proto."""


def serialised_(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model.

    Args:
        model: It has no graph afterwards.
    """
    graph, tensors = model.graph, list(model.graph.initializer)
    del graph.initializer[:]
    body = graph.SerializeToString()
    model.ClearField("graph")
    sizes = [tensor.ByteSize() for tensor in tensors]
    data = io.BytesIO()
    data.write(model.SerializeToString())
    data.write(_behind(GRAPH, len(body) + sum(len(_behind(INITIALIZER, size)) + size for size in sizes)))
    data.write(body)
    for size, tensor in zip(sizes, tensors, strict=True):
        data.write(_behind(INITIALIZER, size))
        data.write(tensor.SerializeToString())
    return data.getvalue()


def _behind(number: int, length: int) -> bytes:
    """Return what stands before a field that is a message: its number, which says so too, and its length."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    """Return a number in seven bits a byte, the least first; the eighth says that more follow."""
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
