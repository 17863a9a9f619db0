"""The profile names the operators that really run, each once, and how long one run of them takes."""

import torch
from torch import nn
from torch.nn import functional as F

from hetcompress.graphs import onnx_bytes
from hetcompress.profiling import WARMUP, OperatorTime, _by_kind, profile_onnx


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 64, 5, padding=2), nn.Conv2d(64, 2, 1)

    def forward(self, x):
        return F.softmax(self.small(F.relu(self.large(x))).mean((2, 3)), 1)


def test_operators_by_kind():
    data, images = onnx_bytes(Net().eval(), torch.zeros(1, 3, 32, 32)), torch.zeros(4, 3, 32, 32)
    found = profile_onnx(data, images, threads=1, seconds=0)
    kinds = {kind.operator: kind for kind in found}
    convolutions = [kind for name, kind in kinds.items() if "Conv" in name]
    assert sum(kind.calls for kind in convolutions) == 2
    assert "Relu" not in kinds, "the runtime has fused it"
    assert kinds["Softmax"].calls == 1
    assert found[0] in convolutions, "the slowest first"
    assert [kind.milliseconds for kind in found] == sorted((kind.milliseconds for kind in found), reverse=True)


def test_times_are_medians_of_a_run_without_the_first_ones():
    def event(name, operator, microseconds, kind="_kernel_time"):
        return {"cat": "Node", "name": name + kind, "dur": microseconds, "args": {"op_name": operator}}

    runs = [9000, *[8000] * (WARMUP - 1), 100, 300, 200]
    events = [{"cat": "Session", "name": "model_run", "dur": 5}]
    for time in runs:
        events += [event("a", "Conv", time), event("b", "Conv", 2 * time), event("c", "Relu", 10)]
        events += [event("c", "Relu", 1000, "_fence_before")]
    expected = [OperatorTime("Conv", 2, 0.2 + 0.4), OperatorTime("Relu", 1, 0.01)]
    assert _by_kind(events, len(runs)) == expected
    # a loop of two turns around another one: each of its turns is a call, the loop is none
    inner = [event("d", "Tanh", 1000) for _ in range(2 * len(runs))]
    loop = [event("loop", "Loop", 2500) for _ in runs]
    assert _by_kind(events + inner + loop, len(runs)) == [OperatorTime("Tanh", 2, 2.0), *expected]
