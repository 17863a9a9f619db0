"""The 8-bit operator in onnxruntime: the same numbers as QLinearConv, and errors for what is malformed."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from kernels.test_int8_run import SAME, case_of

from hetcompress.errors import HetCompressError
from hetcompress.graphs import ort_session
from hetcompress.kernels import DOMAIN, pack
from hetcompress.kernels.int8_library import Held
from hetcompress.kernels.int8_onnx import Int8Filters, int8_node

pytestmark = pytest.mark.usefixtures("library")

CASE = case_of((2, 20, 9, 11), 24, dataclasses.replace(SAME, stride=(2, 1), low=0.0))
CASE.bias = torch.randint(-1000, 1000, (24,), dtype=torch.int32)
OUTPUT = (2, 24, 5, 11)
RESIDUAL = torch.randint(0, 256, OUTPUT, dtype=torch.uint8)
HELD_RESIDUAL = Held(7.0, 9)


def model(*, residual=False, shapes=True):
    values, taps, starts = pack(CASE.weight, 1, 16)
    filters = Int8Filters(values.to(torch.int8), CASE.scales, taps, starts, CASE.bias)
    more = {"residual": "residual", "held_residual": HELD_RESIDUAL} if residual else {}
    node, constants = int8_node("conv", "input", "output", filters, CASE.geometry, CASE.held_in, CASE.held_out, **more)
    value = lambda name, shape: onnx.helper.make_tensor_value_info(  # noqa: E731
        name, onnx.TensorProto.UINT8, shape if shapes else [None] * 4
    )
    inputs = [value("input", ["n", 20, 9, 11]), *([value("residual", ["n", *OUTPUT[1:]])] if residual else [])]
    graph = onnx.helper.make_graph([node], "layer", inputs, [value("output", ["n", *OUTPUT[1:]])], constants)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(proto, **inputs):
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    return ort_session(proto.SerializeToString(), 2).run(None, feed)[0]


def test_equals_the_library_at_any_batch():
    session = ort_session(model().SerializeToString(), 2)
    for batch in (1, 4, 0, 2):
        images = torch.randint(0, 256, (batch, 20, 9, 11), dtype=torch.uint8)
        (found,) = session.run(None, {"input": images.numpy()})
        assert np.array_equal(found, dataclasses.replace(CASE, images=images).run().numpy())


def test_residual():
    case = dataclasses.replace(CASE, residual=RESIDUAL, held_residual=HELD_RESIDUAL)
    assert np.array_equal(run(model(residual=True), input=CASE.images, residual=RESIDUAL), case.run().numpy())


def test_equals_qlinear_conv():
    """Without limits, which that operator has not; it rounds as ours does."""
    geometry = dataclasses.replace(CASE.geometry, low=-float("inf"))
    # without VNNI that operator saturates sums of two products at 16 bits, which weights of 7 bits cannot reach
    case = dataclasses.replace(CASE, geometry=geometry, weight=CASE.weight.clamp(-64, 64))
    weight = case.weight.numpy().astype(np.int8)
    numbers = {
        "xs": np.float32(case.held_in.scale), "xz": np.uint8(case.held_in.zero), "w": weight,
        "ws": case.scales.numpy(), "wz": np.zeros(24, np.int8), "ys": np.float32(case.held_out.scale),
        "yz": np.uint8(case.held_out.zero), "b": case.bias.numpy(),
    }  # fmt: skip
    node = onnx.helper.make_node("QLinearConv", ["input", *numbers], ["output"], pads=[1, 1, 1, 1], strides=[2, 1])
    theirs = model()
    del theirs.graph.node[:], theirs.graph.initializer[:]
    theirs.graph.node.append(node)
    theirs.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), name) for name, v in numbers.items())
    difference = run(theirs, input=case.images).astype(int) - case.run().numpy()
    assert np.abs(difference).max() <= 1  # products of scales may differ in their last bit
    assert (difference != 0).mean() < 0.001


def attribute(name, value):
    def change(node, _values):
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, *([] if value is None else [onnx.helper.make_attribute(name, value)])])

    return change


def numbers(name, of):
    def change(_node, values):
        tensor = values[f"conv.{name}"]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(of(onnx.numpy_helper.to_array(tensor))), tensor.name))

    return change


def missing(place):
    def change(node, _values):
        node.input[place] = ""

    return change


MALFORMED = {
    "a missing attribute": attribute("strides", None),
    "three strides": attribute("strides", [1, 1, 1]),
    "a stride of zero": attribute("strides", [0, 1]),
    "a huge pad": attribute("pads", [2**62, 0, 0, 0]),
    "a huge kernel": attribute("kernel_shape", [2**40, 3]),
    "other channels": attribute("in_channels", 19),
    "too many filters": attribute("out_channels", 2**40),
    "fewer filters": attribute("out_channels", 23),
    "no groups": attribute("group", 0),
    "taps beyond the kernel": numbers("taps", lambda old: old + np.int32(20 * 9)),
    "negative taps": numbers("taps", lambda old: old - np.int32(20 * 9)),
    "fewer taps": numbers("taps", lambda old: old[:-1]),
    "starts beyond the vectors": numbers("starts", lambda old: old + np.int32(1)),
    "starts in no order": numbers("starts", lambda old: old[::-1].copy()),
    "no starts": numbers("starts", lambda old: old[:0]),
    "flat values": numbers("values", lambda old: old.reshape(-1)),
    "vectors of another length": numbers("values", lambda old: old[:, :5].copy()),
    "weights of another type": numbers("values", lambda old: old.astype(np.uint8)),
    "one scale for all filters": numbers("w_scale", lambda old: old[:1]),
    "scales of zero": numbers("w_scale", lambda old: old * np.float32(0)),
    "scales that are no numbers": numbers("w_scale", lambda old: old * np.float32(np.nan)),
    "an input scale below zero": numbers("x_scale", lambda old: -old),
    "two input scales": numbers("x_scale", lambda old: np.stack([old, old])),
    "two zeros": numbers("y_zero", lambda old: np.stack([old, old])),
    "an output scale of zero": numbers("y_scale", lambda old: old * np.float32(0)),
    "a short bias": numbers("bias", lambda old: old[:-1]),
    "no scales": missing(4),
    "no zero": missing(2),
    "no taps": missing(7),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_files_end_in_an_error(what):
    proto = model()
    MALFORMED[what](proto.graph.node[0], {value.name: value for value in proto.graph.initializer})
    with pytest.raises(HetCompressError):
        ort_session(proto.SerializeToString(), 1)


def test_a_residual_without_its_scale_ends_in_an_error():
    proto = model(residual=True)
    del proto.graph.node[0].input[11:]
    with pytest.raises(Exception, match="residual_scale"):
        run(proto, input=CASE.images, residual=RESIDUAL)


@pytest.mark.parametrize("shape", [(1, 19, 9, 11), (1, 20, 0, 0), (1, 20, 9)])
def test_images_of_another_shape_end_in_an_error(shape):
    proto = model(shapes=False)
    if len(shape) != 4:
        proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match="QLinearVectorBlockConv2d"):
        run(proto, input=torch.zeros(shape, dtype=torch.uint8))
