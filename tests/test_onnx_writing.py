"""Bytes written field by field are those that protobuf reads."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hetcompress.onnx_writing import serialised_


@pytest.mark.parametrize("sizes", [(), (0,), (1, 31, 32, 33), (4096, 70_000)])
def test_what_is_written_is_the_model(sizes):
    """Sizes on both sides of one, two and three bytes of length."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.random(size, np.float32), f"w{i}") for i, size in enumerate(sizes)]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 3]) for name in ("input", "logits")]
    graph = helper.make_graph([helper.make_node("Relu", ["input"], ["logits"])], "net", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, producer_name="a test")
    before = onnx.ModelProto.FromString(model.SerializeToString())
    data = serialised_(model)
    assert onnx.ModelProto.FromString(data) == before
    assert len(data) == before.ByteSize()
