"""Padded shortcuts that our layers add become layers of ours; whatever only looks like one stays."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import sparse
from torch import nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import DOMAIN, OPERATOR, available, fuse_torch
from hetcompress.kernels.onnx_shortcuts import replace_shortcuts
from hetcompress.kernels.shortcuts import Shortcut
from hetcompress.kernels.torch_shortcuts import shortcut_of
from hetcompress.kernels.torch_tracing import traced

pytestmark = pytest.mark.skipif(not available()[0], reason=f"no compiled kernels: {available()[1]}")

SOME = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Grows(nn.Module):
    """A block that halves its image and adds what a shortcut makes of it."""

    def __init__(self, shortcut, before=8, after=8, channels=16, stride=2, vector=16):
        super().__init__()
        self.shortcut, filters = shortcut, channels + before + after
        self.first = sparse(3, channels, vector=vector)
        self.down = sparse(channels, filters, stride=stride, vector=vector)
        self.last = sparse(filters, filters, vector=vector)

    def forward(self, x):
        x = F.relu(self.first(x))
        return F.relu(self.last(F.relu(self.down(x))) + self.shortcut(x)).mean((2, 3))


def option_a(before=8, after=8, stride=2):
    return lambda x: F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))


def convolutions(model, size=(9, 10)):
    """Return how many convolutions of ours each runtime calls, after both have computed the same as the model."""
    example = torch.zeros(1, 3, *size)
    data = onnx_bytes(model.eval(), example)
    fused = fuse_torch(model, example)
    assert fused.note == ""
    session = ort_session(data, 1)
    for batch in (1, 3):
        images = torch.randn(batch, 3, *size)
        with torch.no_grad():
            expected = model(images)
            found = fused.model(images.clone()), torch.from_numpy(session.run(None, {"input": images.numpy()})[0])
        for values in found:
            assert (values - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1.0)
    graph = onnx.load_from_string(data).graph
    read = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= read, "constants of nodes that are gone are gone"
    calls = [node.target for node in fused.model.graph.nodes if node.op == "call_function"]
    left = [node for node in graph.node if node.op_type in ("Pad", "Slice")]
    assert bool(left) == (F.pad in calls), "both runtimes see the same shortcuts"
    in_torch = sum(type(module).__name__ == "VectorBlockConv2d" for module in fused.model.modules())
    return in_torch, sum(node.op_type == OPERATOR for node in graph.node)


@SOME
@given(
    st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.integers(1, 3), st.sampled_from([4, 8, 16]),
    st.tuples(st.integers(5, 9), st.integers(5, 9)),
)  # fmt: skip
def test_a_padded_shortcut_is_a_layer_of_ours(channels, before, after, stride, vector, size):
    model = Grows(option_a(before, after, stride), before, after, channels, stride, vector)
    if stride == 1 and before == after == 0:
        return  # nothing is left of it in either graph
    assert convolutions(model, size) == (4, 4)


def test_rows_and_columns_may_have_strides_of_their_own():
    model = Grows(lambda x: F.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 8, 8)), stride=(2, 3))
    assert convolutions(model) == (4, 4)


@pytest.mark.parametrize(
    "shortcut",
    [
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8), value=0.5),
        lambda x: F.pad(x[:, :8, ::2, ::2], (0, 0, 0, 0, 8, 16)),
        lambda x: F.pad(x[:, :, ::2, 1::2], (0, 0, 0, 0, 8, 8)),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 24, -8)),
    ],
    ids=["not zero", "some channels", "from column 1", "channels cut off"],
)
def test_what_only_looks_like_one_stays(shortcut):
    assert convolutions(Grows(shortcut)) == (3, 3)


def test_one_that_something_else_reads_stays():
    class Twice(Grows):
        def forward(self, x):
            x = F.relu(self.first(x))
            short = self.shortcut(x)
            return (F.relu(self.last(F.relu(self.down(x))) + short) + short * 2).mean((2, 3))

    assert convolutions(Twice(option_a())) == (3, 3)


def test_as_a_layer_it_copies_and_pads():
    images = torch.randn(2, 5, 7, 6)
    found = Shortcut(5, 2, 4, (2, 1)).layer(8)(images)
    assert torch.equal(found, F.pad(images[:, :, ::2], (0, 0, 0, 0, 2, 4)))


def test_a_second_vector_length_beside_its_source_keeps_it():
    """Otherwise all that shares the source's layout would be planar."""
    model = Grows(option_a())
    model.first, model.down = sparse(3, 16, vector=8), sparse(16, 32, stride=2, vector=8)
    assert convolutions(model) == (3, 3)


def test_it_has_nothing_to_train():
    fused = fuse_torch(Grows(option_a()).eval(), torch.zeros(1, 3, 9, 10)).model
    trained = {id(parameter) for module in (fused.first, fused.down, fused.last) for parameter in module.parameters()}
    assert {id(parameter) for parameter in fused.parameters() if parameter.requires_grad} == trained


SPELLINGS = {
    "as in the paper": (lambda x: F.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 2, 3)), (2, 3)),
    "dots": (lambda x: F.pad(x[..., ::2, ::3], (0, 0, 0, 0, 2, 3)), (2, 3)),
    "ends": (lambda x: F.pad(x[:, :, 0:9:2, :99:3], (0, 0, 0, 0, 2, 3)), (2, 3)),
    "batches": (lambda x: F.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 2, 3, 0, 0)), (2, 3)),
    "no stride": (lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)), (1, 1)),
    "rows": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 2, 3)), (2, 1)),
    "columns": (lambda x: F.pad(x[..., ::3], (0, 0, 0, 0, 2, 3)), (1, 3)),
    "by place": (lambda x: F.pad(x[:, :, ::2, ::3], (0, 0, 0, 0, 2, 3), "constant", 0), (2, 3)),
    "value by place": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 2, 3), "constant", 1), None),
    "value": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 2, 3), value=0.5), None),
    "start": (lambda x: F.pad(x[:, :, 1::2], (0, 0, 0, 0, 2, 3)), None),
    "end": (lambda x: F.pad(x[:, :, :6:2], (0, 0, 0, 0, 2, 3)), None),
    "channels": (lambda x: F.pad(x[:, ::2], (0, 0, 0, 0, 2, 3)), None),
    "one row": (lambda x: F.pad(x[:, :, 0:1], (0, 0, 0, 0, 2, 3)), None),
    "a number": (lambda x: F.pad(x[:, :, 0], (0, 0, 0, 0)), None),
    "a column more": (lambda x: F.pad(x[:, :, ::2], (0, 1, 0, 0, 2, 3)), None),
    "an image more": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 2, 3, 0, 1)), None),
    "cut off": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, -2, 3)), None),
    "slice read elsewhere": (lambda x: F.pad((y := x[:, :, ::2]), (0, 0, 0, 0, 2, 3)).sum() + y.sum(), None),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_in_torch(spelling):
    class Padded(nn.Module):
        def forward(self, x):
            return SPELLINGS[spelling][0](x)

    graph = traced(Padded(), torch.zeros(1, 5, 9, 10)).graph
    found = shortcut_of(next(node for node in graph.nodes if node.target is F.pad))
    if SPELLINGS[spelling][1] is None:
        # a slice that others read stays, and the pad alone is one without a stride
        assert found is None or (spelling == "slice read elsewhere" and found[1].stride == (1, 1))
    else:
        assert found is not None
        assert (found[0].name, found[1]) == ("x", Shortcut(5, 2, 3, SPELLINGS[spelling][1]))


def padded_graph(starts=(0, 0), ends=(2**63 - 1, 10), axes=(2, 3), steps=(2, 3), sides=(0, 2, 0, 0, 0, 3, 0, 0),
                 value=0.0, mode="constant", pad_axes=None, outputs=(), readers=()):  # fmt: skip
    """Return a graph of a slice, a pad and our convolution that adds it, and the shapes of its values."""
    layer = Shortcut(5, 2, 3, (2, 3)).layer(8)
    arrays = {
        "starts": np.array(starts), "ends": np.array(ends), "axes": np.array(axes), "steps": np.array(steps),
        "sides": np.array(sides), "value": np.array(value, np.float32), "pad_axes": np.array(pad_axes or 0),
        "values": layer.values.detach().numpy(), "taps": layer.taps.numpy(), "begins": layer.starts.numpy(),
    }  # fmt: skip
    make = onnx.helper.make_node
    nodes = [
        make("Slice", ["x", "starts", "ends", "axes", "steps"], ["sliced"]),
        make("Pad", ["sliced", "sides", "value", *(["pad_axes"] if pad_axes else [])], ["padded"], mode=mode),
        make(OPERATOR, ["x", "values", "taps", "begins", "", "padded"], ["y"], domain=DOMAIN),
        *(make("Relu", [name], [f"{name}_read"]) for name in readers),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("y", *outputs)]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return onnx.helper.make_graph(nodes, "g", [], values, constants), {"x": (None, 5, 9, 10)}


OTHERS = {
    "start": {"starts": (0, 1)}, "end": {"ends": (2**63 - 1, 9)}, "negative end": {"ends": (-1, 10)},
    "channels": {"axes": (1, 3)}, "step": {"steps": (-2, 3)}, "rows": {"sides": (0, 2, 1, 0, 0, 3, 0, 0)},
    "batches": {"sides": (1, 2, 0, 0, 0, 3, 0, 0)}, "cut off": {"sides": (0, 2, 0, 0, 0, -3, 0, 0)},
    "value": {"value": 0.5}, "mode": {"mode": "edge"}, "axes": {"pad_axes": (0, 1, 2, 3)},
    "output": {"outputs": ("padded",)}, "read": {"readers": ("padded",)},
}  # fmt: skip


def test_the_graph_that_the_others_differ_from_is_one():
    graph, shapes = padded_graph()
    replace_shortcuts(graph, shapes)
    assert [node.op_type for node in graph.node] == [OPERATOR, OPERATOR]
    assert list(graph.node[0].output) == ["padded"]


@pytest.mark.parametrize("name", OTHERS)
def test_graphs_that_only_look_like_one_stay(name):
    graph, shapes = padded_graph(**OTHERS[name])
    before = graph.SerializeToString()
    replace_shortcuts(graph, shapes)
    assert graph.SerializeToString() == before


@pytest.mark.parametrize("kept", [{"outputs": ("sliced",)}, {"readers": ("sliced",)}])
def test_a_slice_that_something_else_reads_stays_as_what_is_padded(kept):
    graph, shapes = padded_graph(**kept)
    replace_shortcuts(graph, shapes | {"sliced": (None, 5, 5, 4)})
    assert [node.op_type for node in graph.node][:3] == ["Slice", OPERATOR, OPERATOR]
    assert graph.node[1].input[0] == "sliced"
