"""The operator in ONNX files and in onnxruntime: the same numbers, and errors for what is malformed."""

import numpy as np
import onnx
import pytest
import torch
from kernels.test_kernel_operator import pruned
from torch import nn

from hetcompress.errors import HetCompressError, InputError
from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import DOMAIN, OPERATOR, Pooling, VectorBlockConv2d, pool
from hetcompress.kernels.onnx_pools import pool_node
from hetcompress.onnx_forms import LayerNodes

pytestmark = pytest.mark.usefixtures("library")


class Net(nn.Module):
    """Planar in, blocked between, planar out, with a sum."""

    def __init__(self):
        super().__init__()
        layers = [pruned(48, 20, padding=1), pruned(48, 48, padding=1, stride=1), pruned(30, 48, stride=2)]
        one, two, three = (VectorBlockConv2d.from_pruned(layer, 16) for layer in layers)
        self.one = one.with_geometry(layout_out=1, low=0.0)
        self.two = two.with_geometry(layout_in=1, layout_out=1, low=0.0, high=6.0)
        self.three = three.with_geometry(layout_in=1)

    def forward(self, images):
        x = self.one(images)
        return self.three(self.two(x, x))


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    net = Net().eval()
    return net, onnx_bytes(net, torch.zeros(1, 20, 9, 11))


@pytest.mark.parametrize("threads", [1, 2])
def test_round_trip(data, threads):
    net, model = data
    session = ort_session(model, threads)
    for batch in (1, 4, 0, 2):
        images = torch.randn(batch, 20, 9, 11)
        (found,) = session.run(None, {"input": images.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(found, net(images).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [0, 1])
def test_a_sum_may_take_the_place_of_what_it_adds(layout):
    torch.manual_seed(0)
    layer = VectorBlockConv2d.from_pruned(pruned(48, 48, padding=1, stride=1), 16)
    layer = layer.with_geometry(layout_in=layout, layout_out=layout, low=0.0).eval()
    nodes = LayerNodes("")
    nodes.emit(layer, "input")
    conv = nodes.nodes[-1]
    conv.input.append("sum")
    conv.output[0] = "result"
    relu = onnx.helper.make_node("Relu", ["input"], ["sum"])
    last = onnx.helper.make_node("Neg", ["result"], ["output"])
    shape = ["n", 3, 7, 7, 16] if layout else ["n", 48, 7, 7]
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in ("input", "output", "result")
    ]
    graph = onnx.helper.make_graph(
        [relu, *nodes.nodes, last], "g", values[:1], values[1:2], nodes.initializers, value_info=values[2:]
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    session = ort_session(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), 1)
    images = torch.randn(2, *shape[1:])
    (found,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(-found, layer(images, images.relu()).numpy(), rtol=1e-5, atol=1e-5)


def test_without_the_library_an_error_says_what_the_file_needs(data, monkeypatch):
    monkeypatch.setattr("hetcompress.kernels.available", lambda: (False, "the library is not built"))
    with pytest.raises(InputError, match="the library that runs its operators, found the library is not built"):
        ort_session(data[1], 1)


NAMES = ("values", "taps", "starts", "bias")


def broken(model, change):
    proto = onnx.load_from_string(model)
    node = next(node for node in proto.graph.node if node.op_type == OPERATOR and node.domain == DOMAIN)
    values = {value.name: value for value in proto.graph.initializer}
    change(node, {name: values[node.input[i]] for i, name in enumerate(NAMES, 1)})
    return proto.SerializeToString()


def attribute(name, value):
    def change(node, _values):
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def numbers(name, of):
    def change(_node, values):
        old = onnx.numpy_helper.to_array(values[name])
        values[name].CopyFrom(onnx.numpy_helper.from_array(of(old), values[name].name))

    return change


def reshaped(old):
    return old.reshape(-1)


MALFORMED = {
    "a missing attribute": attribute("strides", None),
    "three strides": attribute("strides", [1, 1, 1]),
    "a stride of zero": attribute("strides", [0, 1]),
    "a huge stride": attribute("strides", [2**62, 1]),
    "a negative pad": attribute("pads", [-1, 0, 0, 0]),
    "a huge pad": attribute("pads", [2**62, 0, 0, 0]),
    "a huge kernel": attribute("kernel_shape", [2**40, 3]),
    "a kernel of zero": attribute("kernel_shape", [0, 3]),
    "no dilation": attribute("dilations", [0, 0]),
    "another layout": attribute("layout_out", 7),
    "other channels": attribute("in_channels", 19),
    "no channels": attribute("in_channels", 0),
    "negative filters": attribute("out_channels", -48),
    "too many filters": attribute("out_channels", 2**40),
    "no groups": attribute("group", 0),
    "taps beyond the kernel": numbers("taps", lambda old: old + np.int32(20 * 9)),
    "negative taps": numbers("taps", lambda old: old - np.int32(20 * 9)),
    "fewer taps": numbers("taps", lambda old: old[:-1]),
    "starts beyond the vectors": numbers("starts", lambda old: old + np.int32(1)),
    "starts in no order": numbers("starts", lambda old: old[::-1].copy()),
    "no starts": numbers("starts", lambda old: old[:0]),
    "a bias of no numbers": numbers("bias", lambda old: old[:0]),
    "limits in no order": attribute("low", float("inf")),
    "flat values": numbers("values", reshaped),
    "vectors of another length": numbers("values", lambda old: old[:, :5].copy()),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_files_end_in_an_error(data, what):
    with pytest.raises(HetCompressError):
        ort_session(broken(data[1], MALFORMED[what]), 1)


def test_a_bias_that_is_no_constant_ends_in_an_error(data):
    """It is read when the file is opened: one that may change later would be left out, or be an old one."""
    proto = onnx.load_from_string(data[1])
    node = next(node for node in proto.graph.node if node.op_type == OPERATOR)
    size = next(value for value in proto.graph.initializer if value.name == node.input[4]).dims
    proto.graph.input.append(onnx.helper.make_tensor_value_info(node.input[4], onnx.TensorProto.FLOAT, size))
    session = ort_session(proto.SerializeToString(), 1)
    images = np.zeros([1, *(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:])], np.float32)
    with pytest.raises(Exception, match="bias: expected a constant"):
        session.run(None, {"input": images})


MALFORMED_POOLS = {
    "a missing attribute": attribute("average", None),
    "three strides": attribute("strides", [1, 1, 1]),
    "a stride of zero": attribute("strides", [0, 1]),
    "a kernel of zero": attribute("kernel_shape", [0, 3]),
    "a huge kernel": attribute("kernel_shape", [2**40, 3]),
    "a negative pad": attribute("pads", [-1, 0, 0, 0]),
    "a pad as large as the kernel": attribute("pads", [0, 0, 3, 0]),
    "another layout": attribute("layout_out", 7),
    "an unknown vector length": attribute("vector", 5),
    "no channels": attribute("channels", 0),
    "another kind": attribute("average", 2),
}


def pool_model(pooling):
    def images(name, channels):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", channels, "h", "w"])

    graph = onnx.helper.make_graph(
        [pool_node("input", "output", pooling)], "g", [images("input", "c")], [images("output", "d")]
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


GOOD_POOL = Pooling(20, 16, (3, 3), (2, 2), (1, 1, 1, 1))


@pytest.mark.parametrize("what", MALFORMED_POOLS)
def test_malformed_pools_end_in_an_error(what):
    model = pool_model(GOOD_POOL)
    MALFORMED_POOLS[what](model.graph.node[0], None)
    with pytest.raises(HetCompressError):
        ort_session(model.SerializeToString(), 1)


def test_pools_of_any_images_that_fit():
    session = ort_session(pool_model(GOOD_POOL).SerializeToString(), 1)
    for shape in ((0, 20, 4, 4), (1, 20, 1, 1), (3, 20, 9, 4)):
        images = torch.randn(shape)
        (found,) = session.run(None, {"input": images.numpy()})
        assert np.array_equal(found, pool(images, GOOD_POOL).numpy())
    for shape in ((1, 19, 9, 11), (1, 20, 0, 9)):
        with pytest.raises(Exception, match="BlockedPool2d"):
            session.run(None, {"input": np.zeros(shape, np.float32)})


def test_images_of_another_shape_end_in_an_error(data):
    proto = onnx.load_from_string(data[1])
    for size in proto.graph.input[0].type.tensor_type.shape.dim:
        size.dim_param = size.dim_param or f"any{size.dim_value}"
    session = ort_session(proto.SerializeToString(), 1)
    for shape in ((1, 19, 9, 11), (1, 20, 0, 0)):
        with pytest.raises(Exception, match="VectorBlockConv2d"):
            session.run(None, {"input": np.zeros(shape, np.float32)})
