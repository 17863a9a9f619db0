"""Padded shortcuts that our layers add become layers of ours; whatever only looks like one stays."""

import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import sparse
from torch import nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes, ort_session
from hetcompress.kernels import OPERATOR, available, fuse_torch
from hetcompress.kernels.shortcuts import Shortcut

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
        lambda x: F.pad(x[:, :, 1::2, ::2], (0, 0, 1, 0, 8, 8)),
        lambda x: F.pad(x[:, :, :9:2, ::2], (0, 0, 0, 0, 8, 8), value=0.5),
        lambda x: F.pad(x[:, :8, ::2, ::2], (0, 0, 0, 0, 8, 16)),
        lambda x: F.pad(x[:, :, ::2, :8:2], (0, 1, 0, 0, 8, 8)),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 24, -8)),
    ],
    ids=["from row 1", "not zero", "some channels", "a column more", "channels cut off"],
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
